"""What 1,000 requests cost, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.cluster.planning.costs import Prices, Range
from luthier.config import RunConfig, apply_overrides
from luthier.costing import cost_of, device_of, served_seconds, usage_of, with_costs
from luthier.evaluation_parts import Usage
from luthier.evaluation_schema import Evaluation
from luthier.rows import Row
from luthier.trainers.evaluation import render_report
from tests.unit.artifacts import make_evaluation, make_served
from tests.unit.judged import answered

PRICES = Prices(
    currency="EUR",
    as_of="2026-01",
    accelerators={"H100": Range(low=3.6, high=7.2)},
    cpu_core=Range(low=0.036, high=0.072),
)


def used(cfg: RunConfig) -> Evaluation:
    """Tuned and base, measured on a core."""
    made = make_evaluation()
    usage = Usage(prompt_tokens=100, answer_tokens=11, seconds=2.0, device="CPU", units=1)
    variants = {name: one.model_copy(update={"usage": usage}) for name, one in made.variants.items()}
    return made.model_copy(update={"variants": variants})


def test_usage_is_the_mean_over_answers() -> None:
    rows = [Row("r0", ()), Row("r1", ())]
    found = usage_of([*answered(rows, ["a", "b"], seconds=1.0), *answered(rows, ["a", "b"], seconds=3.0)], "CPU", 2)
    assert (found.prompt_tokens, found.answer_tokens, found.seconds) == (10, 2, 2.0)
    assert usage_of(answered(rows, ["a", "b"], seconds=None), "CPU", 2).seconds is None


def test_the_cost_of_busy_devices() -> None:
    usage = Usage(prompt_tokens=1, answer_tokens=1, seconds=0.5, device="CPU", units=2)
    found = cost_of(usage, PRICES)
    assert found is not None
    # 1,000 x 0.5 s on two cores at 0.036 an hour
    assert (found.low, found.high) == pytest.approx((1000 * 0.5 * 2 / 3600 * 0.036, 1000 * 0.5 * 2 / 3600 * 0.072))
    assert (found.currency, found.measured) == ("EUR", "answering the test split")
    on_gpu = cost_of(usage.model_copy(update={"device": "H100", "units": 1}), PRICES, 0.1)
    assert on_gpu is not None
    assert on_gpu.low == pytest.approx(0.1)
    assert on_gpu.measured == "at the endpoint"
    assert cost_of(usage.model_copy(update={"device": "TPU"}), PRICES) is None
    assert cost_of(usage.model_copy(update={"device": None}), PRICES) is None
    assert cost_of(usage.model_copy(update={"seconds": None}), PRICES) is None


def test_a_request_at_the_endpoint_shares_the_device() -> None:
    usage = Usage(prompt_tokens=100, answer_tokens=11, seconds=2.0, device="CPU", units=1)
    record = make_served()  # 0.2 s and 20 ms, 16 at a time, on a CPU
    assert served_seconds(usage, record) == pytest.approx((0.2 + 10 * 0.02) / 16)
    assert served_seconds(usage, record.model_copy(update={"inter_token_ms": None})) == pytest.approx(0.2 / 16)
    assert served_seconds(usage, record.model_copy(update={"first_token_s": None})) is None
    assert served_seconds(usage.model_copy(update={"device": "H100"}), record) is None


def test_only_the_candidate_was_served(quickstart: RunConfig, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nas_of: 2026-01\naccelerators: {}\ncpu_core: {low: 0.036, high: 0.072}\n")
    cfg = apply_overrides(quickstart, {"evaluate.prices": str(prices), "serve.num_cpus": 2})
    before = with_costs(cfg, used(cfg)).variants
    after = with_costs(cfg, used(cfg), make_served())
    assert before["tuned"].cost == before["base"].cost == after.variants["base"].cost
    tuned = after.variants["tuned"].cost
    assert tuned is not None
    assert tuned.measured == "at the endpoint"
    assert tuned.low == pytest.approx(1000 * 0.4 / 16 * 2 / 3600 * 0.036)
    page = render_report(title="costed", evaluation=after)
    section = page.partition("<h2>Cost</h2>")[2].partition("</section>")[0]
    for told in (f"{tuned.low:.3g} to {tuned.high:.3g} EUR", "prices of 2026-01", "at the endpoint", "100.0", "25 ms"):
        assert told in section
    assert "<h2>Cost</h2>" not in render_report(title="bare", evaluation=make_evaluation())


def test_workers_hold_what_the_run_asks_for(quickstart: RunConfig) -> None:
    assert device_of(quickstart, {})[0] == "CPU"
    gpu = apply_overrides(quickstart, {"train.resources_per_worker": {"CPU": 1, "GPU": 1}})
    assert device_of(gpu, {"accelerator_type:H100": 1.0}) == ("H100", 1.0)
    assert device_of(gpu, {}) == (None, 1.0)
