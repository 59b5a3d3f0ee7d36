"""The number of examples in the few-shot prompt: what is tried, on what, and which is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config import RunConfig, apply_overrides
from luthier.errors import ConfigError, DataError
from luthier.evaluation_parts import FewShotSearch
from luthier.fewshot import best_k, choose_few_shot_k, validation_sample
from luthier.preflight import check_judgeable
from luthier.trainers.answering import few_shot_variants, variants_for
from luthier.view import QuietView
from tests.unit.judged import labelled_config


@pytest.mark.parametrize(
    ("given", "tried"), [(5, (5,)), (0, (0,)), ("auto", (0, 2, 5, 8)), ([8, 0, 2, 2], (0, 2, 8)), ([3, 3], (3,))]
)
def test_the_numbers_to_try(quickstart: RunConfig, given: object, tried: tuple[int, ...]) -> None:
    gate = {} if any(tried) and given != 0 else {"gate.against": ["base"]}
    assert apply_overrides(quickstart, {"evaluate.few_shot_k": given, **gate}).evaluate.few_shot_ks == tried


def test_the_best_is_taken_and_of_equals_the_least() -> None:
    assert best_k(FewShotSearch(metric="macro_f1", n=9, tried={0: 0.1, 2: 0.4, 5: 0.4, 8: 0.3})) == 2
    assert best_k(FewShotSearch(metric="perplexity", n=9, tried={0: 9.0, 2: 4.0, 5: 3.0})) == 5


def test_the_rows_are_bounded_of_the_validation_split_and_the_seeds(quickstart: RunConfig) -> None:
    few = apply_overrides(quickstart, {"evaluate.few_shot_rows": 20})
    drawn = validation_sample(few)
    assert len(drawn) == 20
    assert drawn == validation_sample(few)
    assert all("validation.jsonl" in row.row_id for row in drawn)
    assert drawn != validation_sample(apply_overrides(few, {"seed": 1}))
    assert len(validation_sample(apply_overrides(few, {"evaluate.few_shot_rows": 10_000}))) == 250


def test_a_given_number_asks_nobody(quickstart: RunConfig, tmp_path: Path) -> None:
    assert choose_few_shot_k(quickstart, tmp_path, QuietView()) is None


def test_prompts_begin_with_those_of_fewer_examples(quickstart: RunConfig) -> None:
    none, two, five = few_shot_variants(quickstart, {"0": 0, "2": 2, "5": 5})
    (dataset,) = five.shots
    assert [len(one.shots[dataset]) for one in (none, two, five)] == [0, 2, 5]
    assert five.shots[dataset][:2] == two.shots[dataset]
    assert len({row.label for row in five.shots[dataset]}) == 5


def test_no_example_is_the_base_and_is_not_asked_twice(quickstart: RunConfig, tmp_path: Path) -> None:
    chosen = apply_overrides(quickstart, {"evaluate.few_shot_k": [0, 3]})
    base, few_shot, tuned = variants_for(chosen, tmp_path, None, 0)
    assert (few_shot.name, few_shot.asks) == ("few_shot", base.asks)
    assert tuned.asks != base.asks
    assert variants_for(chosen, tmp_path, None, 3)[1].asks != base.asks


def test_it_takes_validation_rows(quickstart: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chosen on validation rows, and no dataset has any"):
        apply_overrides(quickstart, {"evaluate.few_shot_k": "auto", "datasets.0.validation": None, "tune": None})
    with pytest.raises(ConfigError, match="few_shot_k"):
        apply_overrides(quickstart, {"evaluate.few_shot_k": "best"})
    row = {"text": "x", "label": "net"}
    cfg = labelled_config(tmp_path, [row] * 6, evaluate={"few_shot_k": [0, 2]})
    check_judgeable(cfg)
    (tmp_path / "validation.jsonl").write_text('{"text": "x", "label": "net"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"1 validation row\(s\): choosing evaluate.few_shot_k takes at least 2"):
        check_judgeable(cfg)
