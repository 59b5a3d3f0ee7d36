"""Why a row is dropped and how much a long one loses, of every objective with the real tokenizer."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from luthier.config.objective import DpoConfig
from luthier.rows import Message, Row
from luthier.trainers.accounts import Accountant, SplitAccount
from luthier.trainers.objectives import Objective
from luthier.trainers.objectives.classification import Classification
from luthier.trainers.objectives.dpo import Dpo
from luthier.trainers.objectives.pretraining import Pretraining
from luthier.trainers.objectives.sft import Sft
from luthier.trainers.tokenise import Tokenise, row_table

LIMIT = 48
LONG = "word " * 100


def talk(question: str, answer: str, rejected: str | None = None) -> Row:
    return Row("r", (Message("user", question), Message("assistant", answer)), dataset="d", rejected=rejected)


def account_of(objective: Objective, rows: list[Row]) -> SplitAccount:
    texts = [json.dumps(asdict(row)) for row in rows]
    accountant = Accountant()
    accountant.add(Tokenise(objective)(row_table("train", texts)))
    return accountant.account()


def lost_by(objective: Objective, whole: Objective, rows: list[Row]) -> int:
    """Tokens that a limit takes, by the lengths without one."""
    lengths = [[len(row.input_ids) for one in rows for row in which.encode(one)] for which in (objective, whole)]
    return sum(lengths[1]) - sum(lengths[0])


def test_sft_drops_a_row_whose_answer_lies_behind_the_limit(base_model_dir: Path) -> None:
    rows = [talk("short", "kept"), talk("short", LONG), talk(LONG, "lost")]
    objective, whole = (Sft(base_model_dir, limit, True) for limit in (LIMIT, 4096))
    account = account_of(objective, rows)
    assert (account.kept, account.reasons) == (2, {"no answer token within data.max_length": 1})
    assert (account.truncated, account.cut_tokens) == (2, lost_by(objective, whole, rows))


@pytest.mark.parametrize("lost", [talk(LONG, "a", "b"), talk(LONG, "a")])
def test_dpo_drops_a_pair_of_which_an_answer_lies_behind_the_limit(lost: Row, base_model_dir: Path) -> None:
    rows = [talk("short", "a", "b"), talk("short", "a", LONG), lost]
    objective, whole = (Dpo(base_model_dir, limit, DpoConfig()) for limit in (LIMIT, 4096))
    account = account_of(objective, rows)
    assert (account.kept, account.reasons) == (2, {"an answer lies behind data.max_length": 1})
    assert (account.truncated, account.cut_tokens) == (2, lost_by(objective, whole, rows))


def test_pretraining_drops_a_text_of_one_token_and_cuts_nothing(base_model_dir: Path) -> None:
    objective = Pretraining(base_model_dir, LIMIT)
    texts = ["short", LONG, objective.tokenizer.hf.eos_token]
    account = account_of(objective, [Row("r", (), text=text, dataset="d") for text in texts])
    assert (account.kept, account.reasons) == (2, {"the text is one token, and the first is never predicted": 1})
    assert (account.truncated, account.cut_tokens, account.divided, account.sequences) == (0, 0, 1, 4)


def test_classification_drops_nothing_and_counts_what_it_cuts(base_model_dir: Path) -> None:
    rows = [Row("r", (), label="a", dataset="d", text=text) for text in ("short", LONG)]
    objective, whole = (Classification(base_model_dir, limit, ("a", "b")) for limit in (LIMIT, 4096))
    account = account_of(objective, rows)
    assert (account.kept, account.dropped, account.reasons) == (2, 0, {})
    assert (account.truncated, account.cut_tokens) == (1, lost_by(objective, whole, rows))
