"""The note that keeps spares: there while the run is at work, followed by who stands by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.trainers.spares import keep_one, standing_by


def test_the_note_is_there_while_the_run_is_at_work(tmp_path: Path) -> None:
    file = tmp_path / "run" / "at-work"
    with pytest.raises(KeyboardInterrupt), standing_by(file) as variables:
        assert file.exists()
        assert str(file) in variables.values()
        raise KeyboardInterrupt
    assert not file.exists()


def test_what_a_worker_has_imported_is_imported_ahead_and_the_process_leaves_with_the_run(tmp_path: Path) -> None:
    file = tmp_path / "at-work"
    program = (
        "import sys, time; from luthier.trainers.spares import stand_by; stand_by();"
        "print('colorsys' in sys.modules, flush=True); time.sleep(60)"
    )
    with standing_by(file) as variables:
        file.write_text("colorsys\nno_such_module_at_all")
        process = subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert process.poll() is None
    assert process.wait(timeout=20) == 0


def test_a_worker_of_a_run_that_keeps_none_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_one(note_imports=True)  # there is no Ray session to ask
    monkeypatch.setenv("LUTHIER_AT_WORK_FILE", str(tmp_path / "gone"))
    keep_one(note_imports=True)
    assert list(tmp_path.iterdir()) == []
