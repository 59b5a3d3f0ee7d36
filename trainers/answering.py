"""The test split answered by several models on the cluster: what evaluation scores and parity compares."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from luthier.config.data import DatasetConfig
from luthier.config.run import RunConfig
from luthier.config.sequence import judged_datasets
from luthier.errors import LuthierError, ResourceError
from luthier.precision import computes_in_bf16
from luthier.rows import Row, few_shot_messages
from luthier.trainers.doctor.redact import redacted
from luthier.trainers.files import iter_rows, iter_split
from luthier.trainers.generate import Generator, Question, Scored
from luthier.trainers.inprocess import worker_threads
from luthier.trainers.remote_errors import unwrap
from luthier.trainers.scorers import Classifier, TextScorer, majority

Progress = Callable[[str, int, int], None]
"""Called with variant, rows done, rows in all."""


class Scorer(Protocol):
    """A model that rows are held against."""

    def score(self, questions: Sequence[Question], *, max_new_tokens: int, batch_size: int) -> list[Scored]:
        """What is measured of each question, in their order."""
        ...


@dataclass(frozen=True)
class Variant:
    """One column of the comparison.

    Attributes:
        name: ``base``, ``few_shot``, ``majority``, ``tuned`` or ``incumbent``.
        weights_dir: An artifact's directory; None: the base model.
        shots: By dataset, solved examples before each question.
    """

    name: str
    weights_dir: Path | None = None
    shots: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    @property
    def asks(self) -> tuple[Path | None, dict[str, tuple[Row, ...]]]:
        """What decides the answers: variants alike in this answer alike."""
        return self.weights_dir, {name: rows for name, rows in self.shots.items() if rows}

    def question(self, row: Row) -> Question:
        """The row as this variant is asked it."""
        return Question(row, few_shot_messages(row, self.shots.get(row.dataset, ())))


def variants_for(cfg: RunConfig, tuned: Path, incumbent: Path | None, few_shot_k: int) -> tuple[Variant, ...]:
    """The comparison that the config asks for, with so many examples in the few-shot prompt."""
    if cfg.train.objective == "classification":
        rivals = {"majority": None, "tuned": tuned, "incumbent": incumbent}
        return tuple(Variant(name, place) for name, place in rivals.items() if place or name == "majority")
    variants = [Variant("base")]
    if any(cfg.evaluate.few_shot_ks):
        variants += few_shot_variants(cfg, {"few_shot": few_shot_k})
    variants.append(Variant("tuned", tuned))
    if incumbent is not None:
        variants.append(Variant("incumbent", incumbent))
    return tuple(variants)


def few_shot_variants(cfg: RunConfig, ks: Mapping[str, int]) -> list[Variant]:
    """The base model with solved examples before each question; a smaller number of them begins a larger one.

    Args:
        cfg: Names datasets and seed.
        ks: By the variant's name, its number of examples.
    """
    shots = {one.name: choose_shots(cfg, one, max(ks.values())) for one in judged_datasets(cfg)}
    return [Variant(name, shots={dataset: rows[:k] for dataset, rows in shots.items()}) for name, k in ks.items()]


def choose_shots(cfg: RunConfig, dataset: DatasetConfig, k: int) -> tuple[Row, ...]:
    """``k`` of the dataset's training rows, of different labels as far as there are; the seed decides which."""
    # Of the rows, only labels and places are kept: the file may be larger than memory. So it is read twice.
    labels = [row.label and sys.intern(row.label) for row in iter_rows(dataset, "train", cfg.train.objective)]
    places = list(range(len(labels)))
    random.Random(cfg.seed).shuffle(places)
    first_of_label = {labels[place]: place for place in reversed(places)} if labels[places[0]] is not None else {}
    taken = list(first_of_label.values())[:k]
    rest = (place for place in places if place not in taken)
    chosen = [*taken, *islice(rest, k - len(taken))]
    rows = enumerate(iter_rows(dataset, "train", cfg.train.objective))
    found = {place: row for place, row in rows if place in chosen}
    return tuple(redacted((found[place] for place in chosen), cfg.data.redact))


def answer_all(
    cfg: RunConfig, variants: Sequence[Variant], rows: Sequence[Row], base_model_dir: Path, on_progress: Progress
) -> dict[str, list[Scored]]:
    """Every variant's answer to every row, in the order of the rows. Ray must be initialised.

    Batches are dealt to as many workers as the run trains with, or as the cluster holds.

    Raises:
        ResourceError: The cluster can't hold one worker.
        LuthierError: What a worker raised.
    """
    import ray
    from ray.exceptions import RayError

    asked = [variant for variant in variants if variant.name != "majority"]
    found = {} if len(asked) == len(variants) else {"majority": majority(_train_rows(cfg), rows)}
    actors = _start_workers(cfg, base_model_dir, at_most=len(rows))
    try:
        for variant in asked:
            twin = next((one for one in asked if one.name in found and one.asks == variant.asks), None)
            found[variant.name] = (
                _answer(actors, variant, rows, cfg.evaluate.batch_size, partial(on_progress, variant.name))
                if twin is None
                else found[twin.name]
            )
        return found
    except RayError as error:
        raise unwrap(error) or LuthierError(f"a worker that answered the test split failed: {error}") from error
    finally:
        for handle in actors:
            ray.kill(handle)


def _train_rows(cfg: RunConfig) -> Iterator[Row]:
    return iter_split(cfg.datasets, "train", cfg.train.objective)


def _start_workers(cfg: RunConfig, base_model_dir: Path, at_most: int) -> list[Any]:
    import ray

    need = cfg.train.reserved_per_worker
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = min(int(have.get(key, 0.0) // amount) for key, amount in need.items())
    if room < 1:
        asked = ", ".join(f"{amount:g} {key}" for key, amount in need.items())
        raise ResourceError(
            f"answering the test split takes {asked} (train.resources_per_worker), more than the cluster has; "
            "lower it, or use a larger cluster."
        )
    others = {key: amount for key, amount in need.items() if key not in ("CPU", "GPU")}
    actor = ray.remote(num_cpus=need.get("CPU", 0.0), num_gpus=need.get("GPU", 0.0), resources=others)(_Answerer)
    return [actor.remote(cfg, base_model_dir) for _ in range(min(cfg.train.max_workers, room, at_most))]


def _answer(
    actors: list[Any], variant: Variant, rows: Sequence[Row], batch_size: int, on_progress: Callable[[int, int], None]
) -> list[Scored]:
    """One variant's answers; whichever worker is free takes the next batch of rows of like length."""
    from ray.util import ActorPool

    sizes = [sum(len(turn.content) for turn in row.prompt) or len(row.text or "") for row in rows]
    order = sorted(range(len(rows)), key=sizes.__getitem__)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found: dict[int, Scored] = {}
    on_progress(0, len(rows))

    def ask(actor: Any, batch: list[int]) -> Any:
        return actor.answer.remote(variant.weights_dir, batch, [variant.question(rows[index]) for index in batch])

    for batch, scored in ActorPool(actors).map_unordered(ask, batches):
        found |= dict(zip(batch, scored, strict=True))
        on_progress(len(found), len(rows))
    return [found[index] for index in range(len(rows))]


class _Answerer:
    """A worker process that answers batches, and keeps the model that it answered with last."""

    def __init__(self, cfg: RunConfig, base_model_dir: Path) -> None:
        import torch

        torch.set_num_threads(worker_threads(cfg))
        self._cfg = cfg
        self._base_model_dir = base_model_dir
        self._loaded: tuple[Path | None, Scorer] | None = None

    def answer(
        self, weights_dir: Path | None, batch: list[int], questions: list[Question]
    ) -> tuple[list[int], list[Scored]]:
        """The batch's row numbers, and its answers in the same order."""
        limits = self._cfg.evaluate
        scorer = self._scorer(weights_dir)
        began = time.perf_counter()
        scored = scorer.score(questions, max_new_tokens=limits.max_new_tokens, batch_size=limits.batch_size)
        each_s = (time.perf_counter() - began) / len(batch)
        return batch, [replace(one, seconds=each_s) for one in scored]

    def _scorer(self, weights_dir: Path | None) -> Scorer:
        if self._loaded is None or self._loaded[0] != weights_dir:
            self._loaded = None  # two models need not fit at a time
            self._loaded = (weights_dir, _load(self._cfg, self._base_model_dir, weights_dir))
        return self._loaded[1]


def _load(cfg: RunConfig, base_model_dir: Path, weights_dir: Path | None) -> Scorer:
    """The model behind a variant, as the run's objective asks it."""
    import torch

    device = torch.device("cuda" if cfg.train.use_gpu else "cpu")
    dtype = torch.bfloat16 if computes_in_bf16(cfg.train.bf16, device.type) else torch.float32
    if cfg.train.objective == "classification":
        assert weights_dir is not None
        return Classifier(weights_dir, cfg.model, cfg.data.max_length, dtype, device)
    if cfg.train.objective == "pretraining":
        return TextScorer(base_model_dir, cfg.model, weights_dir, cfg.data.max_length, dtype, device)
    return Generator(base_model_dir, cfg.model, weights_dir, dtype, device)
