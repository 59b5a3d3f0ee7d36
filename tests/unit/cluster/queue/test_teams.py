"""The file of teams, who may ask, and what a run holds at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.cluster.queue.accounting import HOUR_S, Span, below_limit_at, used
from luthier.cluster.queue.gang import covering, gang_of
from luthier.cluster.queue.placement import place
from luthier.cluster.queue.teams import Policy, Team, load_policy
from luthier.cluster.queue.tokens import Tokens
from luthier.config import RunConfig
from luthier.errors import ConfigError
from tests.conftest import ConfigIn

pytestmark = pytest.mark.unit


def read(tmp_path: Path, text: str) -> Policy:
    (tmp_path / "teams.yaml").write_text(text)
    return load_policy(tmp_path / "teams.yaml")


def test_a_file_of_teams_is_read(tmp_path: Path) -> None:
    policy = read(
        tmp_path, "teams: {research: {accelerator_hours: 500, per: day, weight: 2, max_priority: high}, guests: {}}"
    )
    assert policy.teams["research"].max_priority == 50
    assert policy.teams["research"].period_s == 86400
    with pytest.raises(ConfigError, match="--team is missing; this queue's teams are guests, research"):
        policy.team_name(None)
    assert policy.checked_priority("research", None) == 0
    assert load_policy(None).team_name(None) == "default"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "teams: {a: {acelerator_hours: 5}}",
            "teams.yaml:1: unknown key 'teams.a.acelerator_hours'; did you mean 'accelerator_hours'",
        ),
        ("teams: {a: {}}\nstarvation: 5", "teams.yaml:2: unknown key 'starvation'; did you mean 'starvation_s'"),
        ("teams: {a: {max_priority: hihg}}", "did you mean 'high'"),
        ("teams: {a: {per: year}}", "'hour', 'day', 'week' or 'month'"),
        ("teams: {a: {}}\ndefault_team: b", "unknown team 'b'"),
        ("teams: {}", "teams"),
        ("teams: {a: {weight: 0}}", "greater than 0"),
        ("teams: {'a b': {}}", "no name of a team"),
        ("teams: {a: {token_env: A, token_file: b}}", "keep one"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert told in str(error.value)


def test_a_team_with_a_token_of_its_own_is_opened_by_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text("theirs\n")
    policy = Policy(teams={"a": Team(), "b": Team(token_file=str(tmp_path / "own")), "c": Team(token_env="C_TOKEN")})
    monkeypatch.setenv("RAY_AUTH_TOKEN", "rays")
    with pytest.raises(ConfigError, match="'C_TOKEN' is not set"):
        Tokens(policy)
    monkeypatch.setenv("C_TOKEN", "cs")
    tokens = Tokens(policy)
    opened = {
        token: [team for team in policy.teams if tokens.opens(f"Bearer {token}", team)]
        for token in ("rays", "theirs", "cs", "x")
    }
    assert opened == {"rays": ["a"], "theirs": ["b"], "cs": ["c"], "x": []}
    assert tokens.admits("bearer theirs")
    assert not any(tokens.admits(wrong) for wrong in ("", "rays", "Basic rays", "Bearer ", "Bearer é"))


def test_without_a_token_a_queue_asks_for_leave_to_let_everybody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="--allow-unauthenticated"):
        Tokens(Policy())
    assert Tokens(Policy(), unauthenticated=True).opens("", "default")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("rays")
    assert Tokens(Policy()).opens("Bearer rays", "default")


def test_a_gang_covers_each_stage_worker_by_worker(tmp_path: Path, config_in: ConfigIn) -> None:
    cfg: RunConfig = config_in(tmp_path)
    train = gang_of(cfg, "train")
    assert len(train.bundles) == cfg.train.min_workers
    assert train.bundles[0] == cfg.train.reserved_per_worker
    run = gang_of(cfg, "run")
    for stage in run.stages:
        assert all(amount <= run.total[key] for key, amount in stage.resources.items())
    covered = covering([[{"CPU": 1.0}, {"CPU": 4.0}], [{"GPU": 1.0, "CPU": 2.0}]])
    assert covered == ({"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0})


def test_bundles_are_packed_so_that_whole_nodes_stay_free() -> None:
    left = place([{"CPU": 1.0}, {"CPU": 2.0}], [{"CPU": 8.0}, {"CPU": 3.0}])
    assert left == [{"CPU": 8.0}, {"CPU": 0.0}]
    assert place([{"CPU": 2.0}, {"CPU": 2.0}], [{"CPU": 3.0}, {"CPU": 1.0}]) is None
    assert place([{"CPU": 0.1}] * 10, [{"CPU": 1.0}]) is not None  # ten tenths are one


def test_hours_leave_the_window_as_time_goes() -> None:
    spans = [
        Span(team="a", started_s=0.0, ended_s=2 * HOUR_S, accelerators=4.0, cpus=0.0),
        Span(team="a", started_s=3 * HOUR_S, ended_s=None, accelerators=0.0, cpus=2.0),
        Span(team="b", started_s=0.0, ended_s=None, accelerators=8.0, cpus=0.0),
    ]
    now = used(spans, "a", 4 * HOUR_S, 5 * HOUR_S)
    assert (now.accelerator_hours, now.cpu_hours) == (4.0, 4.0)  # the first hour of the first has left
    free_s = below_limit_at(spans, "a", 4 * HOUR_S, 5 * HOUR_S, "accelerator_hours", 1.0)
    assert free_s == pytest.approx(5.75 * HOUR_S, abs=2.0)
    assert below_limit_at(spans, "a", 4 * HOUR_S, 5 * HOUR_S, "accelerator_hours", 9.0) == 5 * HOUR_S
