"""The verbs as Python functions. Each opens a Ray session, does one stage, and closes what it opened."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import stages
from luthier.config import RunConfig, load_config
from luthier.errors import ConfigError, GateRefused, OutputError, RegistryError
from luthier.paths import writable_dir
from luthier.pipeline import run as run
from luthier.rundir import api_key_file, newest_artifact, run_directory
from luthier.view import QuietView, View

if TYPE_CHECKING:
    from luthier.registry import Registry
    from luthier.stages import Judgement
    from luthier.sweep_schema import SweepResult
    from luthier.trainers.data_report import DataReport
    from luthier.trainers.fit import TrainResult


def check_data(cfg: RunConfig, view: View | None = None) -> DataReport:
    """Read, check and tokenise every split."""
    from luthier.cluster.session import start

    view = view or QuietView()
    base_model_dir = stages.prepare_model(cfg, view)
    with start(cfg):
        return stages.check_data(cfg, base_model_dir, view)


def train(cfg: RunConfig, view: View | None = None) -> TrainResult:
    """Fine-tune; an unfinished run of the same config is continued."""
    from luthier.cluster import check_resources
    from luthier.cluster.session import start

    view = view or QuietView()
    with run_directory(cfg) as workdir:
        base_model_dir = stages.prepare_model(cfg, view)
        with start(cfg) as session:
            check_resources(cfg, session.resources)
            return stages.fine_tune(cfg, base_model_dir, workdir, view)


def tune(cfg: RunConfig, view: View | None = None) -> SweepResult:
    """Run the config's sweep."""
    from luthier.cluster.session import start
    from luthier.tuning import check_space

    view = view or QuietView()
    check_space(cfg)
    with run_directory(cfg) as workdir:
        base_model_dir = stages.prepare_model(cfg, view)
        with start(cfg):
            return stages.sweep(cfg, base_model_dir, workdir, view)


def evaluate(cfg: RunConfig, artifact_dir: Path, view: View | None = None) -> Judgement:
    """Judge an artifact on the config's test split."""
    from luthier.cluster.session import start

    view = view or QuietView()
    base_model_dir = stages.prepare_model(cfg, view)
    with start(cfg):
        return stages.judge(cfg, base_model_dir, artifact_dir, None, view)


def serve(cfg: RunConfig, refs: Sequence[str], view: View | None = None) -> None:
    """Serve registered models until interrupted."""
    from luthier.cluster.session import start
    from luthier.serving import stop

    view = view or QuietView()
    key_file = api_key_file(cfg, writable_dir(Path(cfg.storage_path).expanduser(), "storage_path"))
    base_model_dir = stages.prepare_model(cfg, view)
    with start(cfg):
        endpoint, _ = stages.go_live(cfg, base_model_dir, refs, (), view)
        try:
            stages.hold(view, stages.curl_line(cfg, endpoint, refs[0], key_file))
        finally:
            stop(endpoint)


def resolve_target(target: str, overrides: Sequence[str], registry_uri: str) -> tuple[RunConfig, Path]:
    """The config and the artifact that ``CONFIG`` or ``MODEL@VERSION`` names.

    Raises:
        ConfigError: A config whose run has not trained anything yet.
    """
    from luthier.registry import Registry

    if not target.endswith((".yaml", ".yml")) and not Path(target).exists():
        artifact_dir = Registry(registry_uri).fetch(target)
        return load_config(artifact_dir / "config.yaml", overrides), artifact_dir
    cfg = load_config(target, overrides)
    found = newest_artifact(cfg)
    if found is None:
        raise ConfigError(
            f"{target}: no run of this config has been trained under {cfg.storage_path!r}; run luthier train first."
        )
    return cfg, found


def check_promotion(registry: Registry, ref: str) -> dict[str, float]:
    """Ask the gate of the version's own config about its stored evaluation.

    Returns:
        The figures that passed, for the audit record.

    Raises:
        GateRefused: They do not pass.
        RegistryError: There is no evaluation.
    """
    from luthier.evaluation_schema import Evaluation
    from luthier.gate import decide

    stored = registry.get_evaluation(ref)
    if not stored:
        raise RegistryError(
            f"{ref} was registered without an evaluation; run luthier evaluate {ref} and register again."
        )
    cfg = load_config(registry.fetch(ref) / "config.yaml")
    decision = decide(Evaluation.model_validate(stored), cfg.gate)
    if not decision.passed:
        raise GateRefused(f"{ref}: " + "; ".join(check.reason for check in decision.checks if not check.passed))
    return {check.name: check.figure for check in decision.checks if check.figure is not None}


def export(ref: str, output: Path, *, merge: bool, registry_uri: str, dry_run: bool = False) -> list[str]:
    """Write a registered model as a plain directory.

    Args:
        ref: ``name@version`` or ``name@alias``.
        output: Directory to make; it must not exist.
        merge: Merge an adapter into the base model.
        registry_uri: Where the model is registered.
        dry_run: Check only.

    Returns:
        Names of the files written.

    Raises:
        OutputError: ``output`` exists.
    """
    from luthier.registry import Registry

    artifact_dir = Registry(registry_uri).fetch(ref)
    if output.exists():
        raise OutputError(f"{str(output)!r} exists already; name a new directory.")
    if dry_run:
        return []
    if merge and (artifact_dir / "adapter").is_dir():
        _merge(artifact_dir, output)
    else:
        weights = artifact_dir / ("adapter" if (artifact_dir / "adapter").is_dir() else "model")
        shutil.copytree(weights, output)
    shutil.copytree(artifact_dir / "tokenizer", output, dirs_exist_ok=True)
    return sorted(path.name for path in output.iterdir())


def _merge(artifact_dir: Path, output: Path) -> None:
    import torch

    from luthier.trainers.base_model import prepare_base
    from luthier.trainers.model import load_adapter, load_base

    cfg = load_config(artifact_dir / "config.yaml")
    # The sum of base and adapter is rounded to bfloat16 once, not at each of its steps.
    base: Any = load_base(prepare_base(cfg.model, offline=cfg.offline), cfg.model, torch.float32)
    load_adapter(base, artifact_dir / "adapter").merge_and_unload().to(torch.bfloat16).save_pretrained(output)
