"""The tuned model's answers beside the base model's, before a language model."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from luthier.config import RunConfig
from luthier.evaluation_parts import JudgeScores
from luthier.evaluation_schema import CANDIDATE
from luthier.view import View

if TYPE_CHECKING:
    from luthier.rows import Row
    from luthier.trainers.evaluation.pairwise import Pair
    from luthier.trainers.generate import Scored

RIVAL = "base"


def ask_judge(
    cfg: RunConfig, rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]], view: View
) -> JudgeScores | None:
    """Ask the model that ``evaluate.judge`` names; None where it names none.

    An endpoint that fails is no error: what it left open is counted, and told.

    Args:
        cfg: The configuration.
        rows: The rows that were asked.
        scored: By variant its answers, in the order of the rows.
        view: Shows what happens.
    """
    settings = cfg.evaluate.judge
    if settings is None:
        return None
    from luthier.trainers.evaluation.judge_client import ask_in_both_orders
    from luthier.trainers.evaluation.pairwise import summarise

    pairs = pairs_of(cfg, rows, scored)
    key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
    replies = ask_in_both_orders(settings, pairs, key, cfg.seed, partial(view.on_answers, f"judge {settings.model}"))
    found = summarise(
        pairs,
        replies,
        model=settings.model,
        rubric=settings.rubric,
        against=RIVAL,
        confidence=cfg.evaluate.confidence,
        bootstrap_samples=cfg.evaluate.bootstrap_samples,
        seed=cfg.seed,
    )
    view.plain(judge_text(found))
    return found


def pairs_of(cfg: RunConfig, rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]]) -> list[Pair]:
    """The pairs to compare: of all rows, or of as many as may be, drawn by the seed."""
    from luthier.trainers.evaluation.pairwise import Pair

    settings = cfg.evaluate.judge
    assert settings is not None
    places = sorted(random.Random(cfg.seed).sample(range(len(rows)), min(settings.max_rows, len(rows))))
    return [
        Pair(
            question=_question(rows[place]),
            tuned=scored[CANDIDATE][place].answer.text,
            other=scored[RIVAL][place].answer.text,
            reference=rows[place].answer if settings.show_reference else None,
        )
        for place in places
    ]


def _question(row: Row) -> str:
    """The prompt; of several turns, each with its speaker."""
    if len(row.prompt) == 1:
        return row.question
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in row.prompt)


def judge_text(found: JudgeScores) -> str:
    """One line for the terminal."""
    text = f"judge {found.model}: {found.wins} wins, {found.losses} losses, {found.ties} ties against {found.against}"
    if found.win_rate is not None:
        text += f"; win rate {found.win_rate.value:.3f} [{found.win_rate.low:.3f}, {found.win_rate.high:.3f}]"
    if found.unparsable:
        text += f"; {found.unparsable} rows without a verdict, for a reply that is neither A nor B nor tie"
    if found.failures:
        kinds = ", ".join(f"{kind} x {count}" for kind, count in found.failures.items())
        text += f"; {found.failed} rows failed ({kinds})"
    return text
