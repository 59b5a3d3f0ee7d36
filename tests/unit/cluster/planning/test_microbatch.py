"""The largest micro-batch, from rows by the model's own tokenizer or by bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cluster.planning.microbatch import largest_micro_batch, rows_of
from luthier.cluster.planning.rowcount import RowLength
from luthier.config import RunConfig, load_config
from tests.conftest import ROOT

BASE: dict[str, Any] = {"name": "demo", "offline": True, "model": {"model_name_or_path": "no/model"}}


def config(**train: Any) -> RunConfig:
    return RunConfig.model_validate({**BASE, "datasets": [{"train": "none.jsonl"}], "train": train})


ROWS = [RowLength(tokens=10 + n, loss_tokens=2, shared_tokens=9, dataset=0) for n in range(64)]


def test_the_longest_step_is_dealt_out_and_a_common_beginning_counts_once() -> None:
    batch = largest_micro_batch(config(per_device_train_batch_size=4, num_workers=2), ROWS)
    lengths = [73, 71, 69, 67]
    assert (batch.tokens, batch.key_tokens) == (sum(lengths) - 3 * 9, sum(lengths))
    assert (batch.loss_tokens, batch.flat) == (8, True)


def test_padded_rows_are_as_long_as_the_longest() -> None:
    batch = largest_micro_batch(config(per_device_train_batch_size=4, padding_free=False), ROWS)
    assert (batch.tokens, batch.flat) == (4 * 73, False)


def test_unknown_rows_are_taken_as_long_as_they_may_be() -> None:
    cfg = config(per_device_train_batch_size=4)
    assert largest_micro_batch(cfg, rows_of(cfg)).tokens == 4 * cfg.data.max_length


def test_rows_have_about_the_tokens_that_training_finds(base_model_dir: Path, tmp_path: Path) -> None:
    from luthier.trainers.tokens import ChatTokenizer

    cfg = load_config(ROOT / "configs" / "quickstart.yaml", [f"model.model_name_or_path={base_model_dir}"])
    cfg = cfg.model_copy(
        update={"datasets": tuple(one.model_copy(update={"train": str(ROOT / one.train)}) for one in cfg.datasets)}
    )
    from luthier.trainers.files import read_rows

    tokenizer = ChatTokenizer(base_model_dir)
    rows = read_rows(cfg.datasets[0], "train")[:200]
    found = [tokenizer.encode(row, max_length=128, assistant_only_loss=True) for row in rows]
    estimated = (rows_of(cfg) or [])[:200]
    total = sum(len(one.input_ids) for one in found)
    assert sum(one.tokens for one in estimated) == pytest.approx(total, rel=0.03)
    first = found[0].input_ids
    shared = min(
        next(n for n, pair in enumerate(zip(first, one.input_ids, strict=False)) if pair[0] != pair[1])
        for one in found[1:]
    )
    assert estimated[0].shared_tokens == pytest.approx(shared, abs=1)


def test_answers_are_told_from_questions(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q" * 350}, {"role": "assistant", "content": "a" * 35}]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    data = {"datasets": [{"train": str(tmp_path / "train.jsonl")}]}
    learnt = rows_of(RunConfig.model_validate({**BASE, **data}))
    whole = rows_of(RunConfig.model_validate({**BASE, **data, "data": {"assistant_only_loss": False}}))
    assert learnt is not None and whole is not None
    assert learnt[0].loss_tokens < 30 < 100 < whole[0].loss_tokens == whole[0].tokens
