"""What answers take, and what 1,000 of them cost by a table of prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from luthier.config import RunConfig
from luthier.evaluation_parts import Cost, Usage
from luthier.evaluation_schema import CANDIDATE, Evaluation

if TYPE_CHECKING:
    from luthier.cluster.planning.costs import Prices
    from luthier.served_schema import ServedRecord
    from luthier.trainers.generate import Scored

_REQUESTS = 1000


def with_usage(cfg: RunConfig, evaluation: Evaluation, scored: Mapping[str, Sequence[Scored]]) -> Evaluation:
    """The evaluation with the mean tokens and seconds of each variant's answers. Ray must be initialised."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    device, units = device_of(cfg, resources)
    asked = {name: answers for name, answers in scored.items() if name != "majority"}
    usages = {name: usage_of(answers, device, units) for name, answers in asked.items()}
    variants = {
        name: found.model_copy(update={"usage": usages.get(name)}) for name, found in evaluation.variants.items()
    }
    return evaluation.model_copy(update={"variants": variants})


def device_of(cfg: RunConfig, resources: Mapping[str, float]) -> tuple[str | None, float]:
    """What a worker that answers holds, and how many of it.

    Args:
        cfg: Tells what a worker asks for.
        resources: What the cluster has, by which the kind of its GPUs is known.
    """
    from luthier.cluster.planning.choosing import accelerator_of

    need = cfg.train.reserved_per_worker
    if not cfg.train.use_gpu:
        return "CPU", need.get("CPU", 1.0)
    return accelerator_of(cfg.train, resources), need.get("GPU", 1.0)


def usage_of(answers: Sequence[Scored], device: str | None, units: float) -> Usage:
    """Means over the answers."""
    seconds = [one.seconds for one in answers if one.seconds is not None]
    tokens = any(one.answer.prompt_token_ids for one in answers)
    return Usage(
        prompt_tokens=fmean(len(one.answer.prompt_token_ids) for one in answers) if tokens else None,
        answer_tokens=fmean(len(one.answer.token_ids) for one in answers) if tokens else None,
        seconds=fmean(seconds) if len(seconds) == len(answers) else None,
        device=device,
        units=units,
    )


def with_costs(cfg: RunConfig, evaluation: Evaluation, record: ServedRecord | None = None) -> Evaluation:
    """The evaluation with what 1,000 requests to each variant cost.

    The candidate's are by the times of the endpoint where it was measured there, the others' by those of the workers that
    answered the test split.

    Raises:
        ConfigError: The table of prices can't be read.
    """
    from luthier.cluster.planning.costs import read_prices

    place = None if cfg.evaluate.prices is None else Path(cfg.evaluate.prices).expanduser()
    prices = read_prices(place, "evaluate.prices")
    variants = {}
    for name, found in evaluation.variants.items():
        if found.usage is None:
            variants[name] = found
            continue
        served = served_seconds(found.usage, record) if record is not None and name == CANDIDATE else None
        usage = found.usage if served is None else found.usage.model_copy(update={"units": _served_units(cfg)})
        cost = cost_of(usage, prices, served)
        variants[name] = found.model_copy(update={"cost": cost})
    return evaluation.model_copy(update={"variants": variants})


def served_seconds(usage: Usage, record: ServedRecord) -> float | None:
    """Seconds of the endpoint's device that a request takes while as many are in flight as were measured together.

    None where no token times were measured, or on another kind of device than the answers'.
    """
    on_same = (record.device == "cpu") == (usage.device == "CPU")
    if record.first_token_s is None or usage.answer_tokens is None or not on_same:
        return None
    between_s = 0.0 if record.inter_token_ms is None else record.inter_token_ms.p50 / 1000
    return (record.first_token_s.p50 + max(usage.answer_tokens - 1, 0) * between_s) / record.concurrency


def _served_units(cfg: RunConfig) -> float:
    """Accelerators or cores of one engine."""
    return 1.0 if cfg.train.use_gpu else cfg.serve.num_cpus


def cost_of(usage: Usage, prices: Prices, served_s: float | None = None) -> Cost | None:
    """The cost of 1,000 requests; None where their time or the device's price is unknown.

    Args:
        usage: Seconds of a request, and the device.
        prices: The table.
        served_s: Seconds at the endpoint; None: not measured there.
    """
    seconds = usage.seconds if served_s is None else served_s
    price = prices.cpu_core if usage.device == "CPU" else prices.accelerators.get(usage.device or "")
    if seconds is None or price is None:
        return None
    hours = _REQUESTS * seconds * usage.units / 3600
    return Cost(
        low=hours * price.low,
        high=hours * price.high,
        currency=prices.currency,
        prices_as_of=prices.as_of,
        seconds=seconds,
        measured="answering the test split" if served_s is None else "at the endpoint",
    )
