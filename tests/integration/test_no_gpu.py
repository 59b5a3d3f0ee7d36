"""A GPU that the cluster lacks is refused at once, where Ray would wait for it for ever."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("verb", ["train", "run"])
def test_asking_for_a_gpu_that_is_not_there_is_bad_input(
    ray_session: Any, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if ray_session.resources.get("GPU"):
        pytest.skip("a GPU is here")
    settings = [
        "tune=null",
        f"storage_path={tmp_path / 'runs'}",
        f"registry.uri={tmp_path / 'registry'}",
        "train.num_workers=1",
        "train.resources_per_worker={CPU: 1, GPU: 1}",
    ]
    monkeypatch.setattr(sys, "argv", ["luthier", verb, str(ROOT / "configs" / "quickstart.yaml"), *settings])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "asks for 1 GPU, the cluster has 0" in told
    assert "lower train.num_workers or train.resources_per_worker" in told
    assert not list(tmp_path.iterdir())
