"""What counts as the same answer, on answers made for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.answers import Answer, Candidate
from luthier.errors import ServingError
from luthier.serving.parity import Outcome, ParityReport, Served, compare

TOLERANCE = 0.125


def top(*pairs: tuple[int, float]) -> tuple[Candidate, ...]:
    return tuple(Candidate(token, logprob) for token, logprob in pairs)


SURE, CLOSE = top((7, -0.01), (8, -5.0)), top((7, -0.70), (8, -0.75))


def trainer(second: tuple[Candidate, ...] = SURE) -> Answer:
    (a, b), (c, d) = SURE, second
    return Answer("rows:1", (1, 2, 3), (7, 7), "x", ((a, b), (c, d)), ({"role": "user", "content": "x"},), "float32")


def served(*tokens: int, prompt: tuple[int, ...] = (1, 2, 3)) -> Served:
    seen = tuple(top((token, -0.5), (99, -0.6)) for token in tokens)
    return Served(prompt, tokens, seen)


@pytest.mark.parametrize(
    ("answer", "reply", "outcome", "position"),
    [
        (trainer(), served(7, 7), "same", None),
        (trainer(CLOSE), served(7, 8), "near-tie", 1),
        (trainer(CLOSE), served(7, 9), "mismatch", 1),  # neither of the two that were close
        (trainer(SURE), served(7, 8), "mismatch", 1),  # the second choice, but not close
        (trainer(CLOSE), served(7), "mismatch", 1),  # it ended early
        (trainer(CLOSE), served(7, 7, 7), "mismatch", 2),  # it went on
        (trainer(CLOSE), served(7, 8, prompt=(1, 2, 4)), "other-prompt", 2),
        (trainer(), served(7, 7, prompt=(1, 2)), "other-prompt", 2),
        (trainer(), served(7, 7, prompt=(0, 1, 2, 3)), "other-prompt", 0),
    ],
)
def test_each_difference_has_its_name(answer: Answer, reply: Served, outcome: Outcome, position: int | None) -> None:
    row = compare(answer, reply, TOLERANCE)
    assert (row.outcome, row.position) == (outcome, position)


def test_of_tokens_that_are_as_good_the_trainer_may_have_chosen_the_one_that_is_told_second() -> None:
    answer = replace(trainer(top((7, -1.064), (8, -1.064))), token_ids=(7, 8))
    assert compare(answer, served(7, 7), TOLERANCE).outcome == "near-tie"


def test_both_sides_log_probabilities_are_kept_where_they_part() -> None:
    row = compare(trainer(CLOSE), served(7, 8), TOLERANCE)
    assert row.trainer_top == CLOSE
    assert row.served_top == top((8, -0.5), (99, -0.6))
    assert row.trainer_gap == pytest.approx(0.05)
    assert row.served_gap == pytest.approx(0.1)


def test_the_deviation_is_that_of_the_tokens_before_they_part() -> None:
    assert compare(trainer(), served(7, 7), TOLERANCE).deviation == pytest.approx(0.49)
    assert compare(trainer(CLOSE), served(7, 8), TOLERANCE).deviation == pytest.approx(0.49)
    assert compare(trainer(), served(8, 7), TOLERANCE).deviation is None


def test_a_wider_tolerance_takes_in_a_wider_gap() -> None:
    assert compare(trainer(SURE), served(7, 8), 5.0).outcome == "near-tie"


def test_the_report_counts_and_passes_what_is_explained() -> None:
    rows = (compare(trainer(), served(7, 7), TOLERANCE), compare(trainer(CLOSE), served(7, 8), TOLERANCE))
    report = ParityReport(rows, TOLERANCE)
    report.require()
    assert report.summary() == (
        "2 answers: 1 same, 1 near-tie (near-tie: gap up to 0.125 nats); log-probabilities agree within 0.5 nats"
    )
    told = report.as_dict()
    assert (told["same"], told["near-tie"], told["mismatch"], told["other-prompt"]) == (1, 1, 0, 0)
    assert told["rows"][1]["served_top"][0] == {"token_id": 8, "logprob": -0.5}


def test_a_mismatch_is_refused_with_what_both_sides_thought() -> None:
    report = ParityReport((compare(trainer(SURE), served(7, 8), TOLERANCE),), TOLERANCE)
    with pytest.raises(ServingError, match=r"rows:1 differs .* token 1: .* 7 \(-0.010\), 8 \(-5.000\)"):
        report.require()


def test_another_prompt_is_refused_as_such() -> None:
    report = ParityReport((compare(trainer(), served(7, 7, prompt=(1, 9, 3)), TOLERANCE),), TOLERANCE)
    with pytest.raises(ServingError, match="chat template is not the one that was trained with"):
        report.require()


@pytest.mark.parametrize(("tokens", "gap_ms"), [((7,), None), ((7, 7), 300.0), ((7, 7, 7, 7), 100.0)])
def test_the_time_between_tokens_is_an_average_over_the_answer(tokens: tuple[int, ...], gap_ms: float | None) -> None:
    timed = replace(served(*tokens), first_token_s=0.5, total_s=0.8)
    assert timed.inter_token_ms == (None if gap_ms is None else pytest.approx(gap_ms))
