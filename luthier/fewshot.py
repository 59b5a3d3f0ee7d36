"""How many solved examples the few-shot baseline is given: the number that is best on the validation split.

The test split has no part in the choice, or the baseline would be too good; a baseline of an unlucky number would make the
tuned model look too good.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from luthier.config import RunConfig
from luthier.evaluation_parts import FewShotSearch
from luthier.evaluation_schema import LOWER_IS_BETTER
from luthier.gate import gate_metric
from luthier.preflight import class_labels
from luthier.scoring import score_rows
from luthier.view import View

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.rows import Row


def choose_few_shot_k(cfg: RunConfig, base_model_dir: Path, view: View) -> FewShotSearch | None:
    """Answer validation rows with every number of examples. Ray must be initialised.

    Returns:
        The figures; None where the config gives one number.
    """
    from luthier.trainers.answering import answer_all, few_shot_variants

    ks = cfg.evaluate.few_shot_ks
    if len(ks) == 1:
        return None
    rows = validation_sample(cfg)
    names = {f"{k}-shot, validation": k for k in ks}
    scored = answer_all(cfg, few_shot_variants(cfg, names), rows, base_model_dir, view.on_answers)
    found = score_rows(cfg, scored, rows, range(len(rows)), class_labels(cfg, rows))
    metric = gate_metric(cfg.gate, labelled=bool(found.labels))
    if any(metric not in one.metrics for one in found.variants.values()):
        metric = gate_metric(cfg.gate.model_copy(update={"metric": None}), labelled=bool(found.labels))
    tried = {k: found.variants[name].metrics[metric].value for name, k in names.items()}
    search = FewShotSearch(metric=metric, n=found.n, tried=tried)
    figures = ", ".join(f"{k}: {value:.3f}" for k, value in tried.items())
    view.plain(f"few-shot examples by {metric} of {found.n} validation rows: {figures}; {best_k(search)} are taken")
    return search


def best_k(search: FewShotSearch) -> int:
    """The number of examples with the best figure; of equally good ones the least."""
    sign = 1 if search.metric in LOWER_IS_BETTER else -1
    return min(search.tried, key=lambda k: (sign * search.tried[k], k))


def validation_sample(cfg: RunConfig) -> list[Row]:
    """The validation rows that the choice goes by, drawn by the seed, in the order of the files.

    Raises:
        DataError: There are fewer than two, or a file can't be used.
    """
    from luthier.config.sequence import judged_datasets
    from luthier.errors import DataError
    from luthier.trainers.doctor.redact import redacted
    from luthier.trainers.files import iter_split

    rows = list(iter_split(judged_datasets(cfg), "validation", cfg.train.objective))
    if len(rows) < 2:
        raise DataError(
            f"{len(rows)} validation row(s): choosing evaluate.few_shot_k takes at least 2; add rows to "
            "datasets[].validation, or give a number."
        )
    number = min(cfg.evaluate.few_shot_rows, len(rows))
    places = sorted(random.Random(cfg.seed).sample(range(len(rows)), number))
    return redacted((rows[place] for place in places), cfg.data.redact)
