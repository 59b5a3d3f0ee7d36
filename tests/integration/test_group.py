"""Trials that share a base in an actor, as a sweep's trials use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from luthier.config import RunConfig
from luthier.errors import ConfigError
from luthier.trainers.inprocess import train_in_process
from luthier.tuning import tune
from luthier.tuning.group import groups_of, train_in_group

pytestmark = pytest.mark.usefixtures("ray_session")

ConfigIn = Callable[..., RunConfig]
MakeConfig = Callable[..., RunConfig]
Row = dict[str, float]

LOSS_TOLERANCE = 5e-4
"""As in test_together.py."""


class Stopped(BaseException):
    """What Tune's exit from within a report looks like to a trial."""


@pytest.fixture(scope="module")
def group(
    config_in: ConfigIn, shallow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: Any
) -> Iterator[Any]:
    with groups_of(config_in(tmp_path_factory.mktemp("group")), shallow_base_dir, 1, 3) as (handle,):
        yield handle


def run(groups: Sequence[Any], cfg: RunConfig, base: Path, workdir: Path, stop_at: int | None = None) -> list[Row]:
    """A trial's reports; with ``stop_at``, Tune stops it in the one of that step."""
    rows: list[Row] = []

    def report(metrics: Mapping[str, float], checkpoint: Path | None = None, /) -> None:
        rows.append(dict(metrics))
        if metrics["step"] == stop_at:
            raise Stopped

    with suppress(Stopped):
        train_in_group(*groups)(cfg, base_model_dir=base, workdir=workdir, report=report)
    return rows


def test_trials_report_what_they_report_alone_and_a_stopped_one_leaves(
    group: Any, make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    configs = [make_config(eval_steps=1, lora_r=rank, num_train_epochs=2) for rank in (4, 8, 16)]
    expected: list[Row] = []
    train_in_process(
        configs[0],
        base_model_dir=shallow_base_dir,
        workdir=tmp_path / "alone",
        report=lambda metrics, path: expected.append(metrics),
    )
    stops = (None, 2, None)
    with ThreadPoolExecutor() as pool:
        trials = [
            pool.submit(run, [group], cfg, shallow_base_dir, tmp_path / str(number), stop)
            for number, (cfg, stop) in enumerate(zip(configs, stops, strict=True))
        ]
        found = [trial.result() for trial in trials]
    assert [[row["step"] for row in rows] for rows in found] == [[1, 2, 3, 4, 5, 6], [1, 2], [1, 2, 3, 4, 5, 6]]
    assert found[0][0].keys() == expected[0].keys()
    for key in ("eval_loss", "loss", "epoch"):
        assert [row[key] for row in found[0]] == pytest.approx([row[key] for row in expected], rel=LOSS_TOLERANCE)
    assert found[1][1]["eval_loss"] != pytest.approx(found[0][1]["eval_loss"], rel=LOSS_TOLERANCE)
    assert ray.get(group.num_members.remote()) == 0


def test_trials_that_come_at_the_same_time_are_shared_out_and_one_too_many_waits(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    cfg = make_config(eval_steps=1, max_steps=8, resources_per_worker={"CPU": 0.5})
    sizes: set[tuple[int, ...]] = set()

    def trial(number: int) -> list[Row]:
        return run(groups, cfg, shallow_base_dir, tmp_path / str(number))

    with groups_of(cfg, shallow_base_dir, 2, 2) as groups, ThreadPoolExecutor() as pool:
        trials = [pool.submit(trial, number) for number in range(5)]
        while not all(one.done() for one in trials):
            sizes.add(tuple(ray.get([group.num_members.remote() for group in groups])))
        assert [len(one.result()) for one in trials] == [8] * 5
    assert (2, 2) in sizes
    assert max(map(max, sizes)) == 2


def test_a_trial_that_cannot_join_fails_by_itself(
    group: Any, make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^train\.lora_dropout=0\.5 can't be trained together"):
        run([group], make_config(lora_dropout=0.5), shallow_base_dir, tmp_path / "refused")
    rows = run([group], make_config(max_steps=1), shallow_base_dir, tmp_path / "next")
    assert [row["step"] for row in rows] == [1]


def test_a_sweep_trains_its_trials_on_one_base_stops_the_weaker_and_gives_its_cpu_back(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    described = make_config(max_steps=4, eval_steps=1).model_dump(mode="json", exclude_none=True)
    rates = {"train.learning_rate": {"type": "grid", "values": [1e-2, 1e-2, 1e-2, 1e-5]}}
    sweep = {"search_space": rates, "num_samples": 1, "adapters_together": 2, "max_concurrent_trials": 2}
    cfg = RunConfig.model_validate({**described, "tune": sweep, "cluster": {"num_cpus": 1}})
    free = ray.available_resources()["CPU"]
    result = tune(cfg, workdir=tmp_path / "sweep", base_model_dir=shallow_base_dir)
    assert [trial.status for trial in result.trials[:3]].count("finished") >= 1
    assert result.trials[3].status in ("stopped", "finished")
    assert result.best.params == {"train.learning_rate": 1e-2}
    assert all(trial.metric is not None for trial in result.trials), [trial.reason for trial in result.trials]
    assert result.best.held["CPU"] == pytest.approx(result.best.wall_s / 2, rel=1e-6)
    until = time.monotonic() + 20
    while ray.available_resources().get("CPU") != free and time.monotonic() < until:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == free
