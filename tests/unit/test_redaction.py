"""Secrets leave a process under their names alone."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from luthier.config.secret import SecretRef
from luthier.errors import OutputError
from luthier.redaction import Redaction, _Guarded
from luthier.secret_refs import resolve

SECRET = 'pass"word\\of the test'


@pytest.fixture
def redaction() -> Redaction:
    made = Redaction()
    made.learn("HF_TOKEN", SECRET)
    made.learn("KEY", "-----BEGIN KEY-----\nfirst-line-of-it\nsecond-line-of-it\n")
    made.learn("SHORT", "abc")
    return made


@pytest.mark.parametrize(
    "told",
    [SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1], quote(SECRET, safe=""), SECRET[:7] + "\n  " + SECRET[7:]],
    ids=["plain", "json", "repr", "url", "wrapped"],
)
def test_every_form_is_replaced(redaction: Redaction, told: str) -> None:
    assert redaction.text(f"<{told}>") == "<[secret HF_TOKEN]>"
    assert redaction.text("abc first-line-of-it") == "abc [secret KEY]"


def test_streams(redaction: Redaction) -> None:
    written = io.StringIO()
    print("a", SECRET, file=_Guarded(written, redaction))  # type: ignore[arg-type]
    _Guarded(written, redaction).writelines([SECRET, "\n"])
    assert written.getvalue() == "a [secret HF_TOKEN]\n[secret HF_TOKEN]\n"


def test_errors_keep_their_type_where_they_can(redaction: Redaction) -> None:
    with pytest.raises(OutputError, match=r"^no \[secret HF_TOKEN\]$"), redaction.errors():
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise OutputError(f"no {SECRET}") from error
    with pytest.raises(FileNotFoundError) as missing, redaction.errors():
        Path(f"/{SECRET}").read_text()
    assert SECRET not in f"{missing.value} {missing.value!r}"

    class Stubborn(Exception):
        def __str__(self) -> str:
            return f"always {SECRET}"

    with pytest.raises(RuntimeError, match=r"Stubborn: always \[secret HF_TOKEN\]"), redaction.errors():
        raise Stubborn


def test_whatever_logs() -> None:
    code = (
        "import logging, sys; from luthier.redaction import PROCESS as known\n"
        "known.learn('T', sys.argv[1]); known.guard_logging(); known.guard_logging()\n"
        "logging.basicConfig(filename=sys.argv[2]); logging.error('at %s', sys.argv[1])\n"
        "try: raise ValueError(sys.argv[1])\n"
        "except ValueError: logging.exception('failed')\n"
    )
    log = Path(__file__).with_name("none")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("filename=sys.argv[2]", "stream=sys.stdout"), SECRET, str(log)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert SECRET not in done.stdout
    assert "at [secret T]" in done.stdout
    assert "ValueError: [secret T]" in done.stdout


def test_the_command_line_prints_no_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-the-test\n")
    (tmp_path / "run.yaml").write_text(
        "name: demo\nmodel: {base_model: ./a-token-of-the-test}\ndatasets: [{train: a-token-of-the-test.jsonl}]\n"
        f"offline: true\nsecrets: {{HF_TOKEN: {{file: {tmp_path / 'token'}}}}}\n"
    )
    command = [sys.executable, "-m", "luthier.cli", "train", "run.yaml", f"storage_path={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "a-token-of-the-test" not in done.stdout + done.stderr
    assert "[secret HF_TOKEN]" in done.stderr


def test_references_are_looked_up_where_they_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text(" from-a-file \n")
    monkeypatch.setenv("THE_SOURCE", "from-the-environment")
    monkeypatch.setenv("TOO_SHORT", "short")
    found = resolve(
        {
            "A": SecretRef(file=str(tmp_path / "file")),
            "B": SecretRef(env="THE_SOURCE"),
            "C": SecretRef(env="NOT_SET"),
            "D": SecretRef(file=str(tmp_path / "gone")),
            "E": SecretRef(env="TOO_SHORT"),
        }
    )
    assert found.values == {"A": "from-a-file", "B": "from-the-environment"}
    assert {name: problem for name, (problem, _) in found.problems.items()} == {
        "C": "secrets.C: environment variable NOT_SET is not set or empty",
        "D": f"secrets.D: file '{tmp_path / 'gone'}' can't be read ([Errno 2] No such file or directory: "
        f"'{tmp_path / 'gone'}')",
        "E": "secrets.E: environment variable TOO_SHORT has 5 characters; with fewer than 8 it can't be told from other "
        "text",
    }


def test_a_guarded_log_record_is_one(redaction: Redaction) -> None:
    record = redaction._record(logging.LogRecord("x", logging.INFO, "f", 1, "no %s", ("secret",), None))
    assert record.getMessage() == "no secret"
