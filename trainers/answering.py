"""The test split answered by several models on the cluster: what evaluation scores and parity compares."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from luthier.config.run import RunConfig
from luthier.precision import computes_in_bf16
from luthier.rows import Row, few_shot_messages
from luthier.trainers.files import read_rows
from luthier.trainers.generate import Generator, Question, Scored
from luthier.trainers.inprocess import worker_threads

Progress = Callable[[str, int, int], None]
"""Called with variant, rows done, rows in all."""


@dataclass(frozen=True)
class Variant:
    """One column of the comparison.

    Attributes:
        name: ``base``, ``few_shot``, ``tuned`` or ``incumbent``.
        weights_dir: An artifact's directory; None: the base model.
        shots: Solved examples before each question.
    """

    name: str
    weights_dir: Path | None = None
    shots: tuple[Row, ...] = ()


def variants_for(cfg: RunConfig, tuned: Path, incumbent: Path | None) -> tuple[Variant, ...]:
    """The comparison that the config asks for."""
    variants = [Variant("base")]
    if cfg.evaluate.few_shot_k:
        variants.append(Variant("few_shot", shots=choose_shots(cfg)))
    variants.append(Variant("tuned", tuned))
    if incumbent is not None:
        variants.append(Variant("incumbent", incumbent))
    return tuple(variants)


def choose_shots(cfg: RunConfig) -> tuple[Row, ...]:
    """``few_shot_k`` training rows, of different labels as far as there are some; the seed decides which."""
    rows = [row for dataset in cfg.datasets for row in read_rows(dataset, "train")]
    random.Random(cfg.seed).shuffle(rows)
    first_of_label = {row.label: row for row in reversed(rows)} if rows[0].label is not None else {}
    chosen = list(first_of_label.values())[: cfg.evaluate.few_shot_k]
    taken = {row.row_id for row in chosen}
    rest = [row for row in rows if row.row_id not in taken]
    return tuple((chosen + rest)[: cfg.evaluate.few_shot_k])


def test_rows(cfg: RunConfig) -> list[Row]:
    """The rows that the evaluation is on."""
    rows = [row for dataset in cfg.datasets if dataset.test for row in read_rows(dataset, "test")]
    return rows[: cfg.evaluate.limit]


test_rows.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where tests import it


def answer_all(
    cfg: RunConfig, variants: Sequence[Variant], rows: Sequence[Row], base_model_dir: Path, on_progress: Progress
) -> dict[str, list[Scored]]:
    """Every variant's answer to every row, in the order of the rows. Ray must be initialised.

    Rows are shared out among as many workers as the run trains with.
    """
    import ray

    num_workers = max(1, min(cfg.train.num_workers, len(rows)))
    resources = cfg.train.resources_per_worker
    actor = ray.remote(num_cpus=resources.get("CPU", 0.0), num_gpus=resources.get("GPU", 0.0))(_Answerer)
    actors = [actor.remote(cfg, base_model_dir) for _ in range(num_workers)]
    results: dict[str, list[Scored]] = {}
    try:
        for variant in variants:
            questions = [Question(row, few_shot_messages(row, variant.shots)) for row in rows]
            shares = [questions[rank::num_workers] for rank in range(num_workers)]
            calls = [a.answer.remote(variant.weights_dir, share) for a, share in zip(actors, shares, strict=True)]
            on_progress(variant.name, 0, len(rows))
            _wait(calls, [len(share) for share in shares], partial(on_progress, variant.name), len(rows))
            parts = ray.get(calls)
            results[variant.name] = [parts[index % num_workers][index // num_workers] for index in range(len(rows))]
    finally:
        for handle in actors:
            ray.kill(handle)
    return results


def _wait(calls: list[object], sizes: list[int], on_progress: Callable[[int, int], None], total: int) -> None:
    import ray

    size_of = dict(zip(calls, sizes, strict=True))
    pending, done = list(calls), 0
    while pending:
        ready, pending = ray.wait(pending, num_returns=1)
        done += sum(size_of[call] for call in ready)
        on_progress(done, total)


class _Answerer:
    """A worker process that answers its share of the rows."""

    def __init__(self, cfg: RunConfig, base_model_dir: Path) -> None:
        import torch

        torch.set_num_threads(worker_threads(cfg))
        self._cfg = cfg
        self._base_model_dir = base_model_dir

    def answer(self, weights_dir: Path | None, questions: list[Question]) -> list[Scored]:
        """Load a model and answer with it."""
        import torch

        cfg = self._cfg
        device = torch.device("cuda" if cfg.train.use_gpu else "cpu")
        dtype = torch.bfloat16 if computes_in_bf16(cfg.train.bf16, device.type) else torch.float32
        generator = Generator(self._base_model_dir, cfg.model, weights_dir, dtype, device)
        limits = cfg.evaluate
        return generator.score(questions, max_new_tokens=limits.max_new_tokens, batch_size=limits.batch_size)
