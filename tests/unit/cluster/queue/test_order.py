"""The order of a team's queue: what starts, what waits, and what may never happen."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.cluster.queue.accounting import Span
from luthier.cluster.queue.gang import Bundle, added
from luthier.cluster.queue.order import Cluster, Decision, Standing, decide
from luthier.cluster.queue.placement import place
from luthier.cluster.queue.standing import standings
from luthier.cluster.queue.teams import Policy, Team
from luthier.cluster.queue.ticket import Ticket
from tests.unit.cluster.queue.simulation import TICK_S, Simulation, ticket

pytestmark = pytest.mark.unit

NODES: list[Bundle] = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]
GPU: Bundle = {"GPU": 1.0, "CPU": 1.0}
TEAMS = Policy(teams={"a": Team(), "b": Team(weight=2.0)}, starvation_s=600.0)


def chosen(waiting: Sequence[Ticket], running: Sequence[Ticket] = (), **changes: object) -> Decision:
    asked = {"cluster": Cluster(nodes=tuple(NODES)), "standings": {}, "policy": TEAMS, "now_s": 1000.0, **changes}
    return decide(waiting, running, **asked)  # type: ignore[arg-type]


def test_the_higher_priority_starts_first_and_then_who_came_first() -> None:
    jobs = [ticket(1, [GPU] * 8), ticket(2, [GPU] * 8, priority=50), ticket(3, [GPU] * 8, submitted_s=-1.0)]
    decision = chosen(jobs)
    assert decision.start == ("job-2",)
    assert decision.blocked == "job-3"
    assert "asks for 8 x (1 CPU, 1 GPU)" in decision.waiting["job-1"]


def test_a_gang_starts_whole_or_not_at_all() -> None:
    running = ticket(1, [GPU] * 5)
    decision = chosen([ticket(2, [GPU] * 4)], [running])
    assert decision.start == ()
    assert "not reserved: 11 CPU, 3 GPU of 16 CPU, 8 GPU" in decision.waiting["job-2"]


def test_enough_in_all_is_not_enough_on_one_node() -> None:
    busy = [ticket(1, [{"CPU": 6.0}]), ticket(2, [{"CPU": 6.0}])]
    assert chosen([ticket(3, [{"CPU": 4.0}])], busy).start == ()
    assert chosen([ticket(3, [{"CPU": 2.0}, {"CPU": 2.0}])], busy).start == ("job-3",)


def test_what_others_than_the_queue_hold_is_not_given_away() -> None:
    cluster = Cluster(nodes=tuple(NODES), free=({"CPU": 8.0, "GPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}))
    decision = chosen([ticket(1, [GPU] * 2), ticket(2, [GPU])], cluster=cluster)
    assert decision.start == ("job-2",)
    assert "others than this queue" in decision.waiting["job-1"]


def test_what_is_kept_free_is_not_given_away() -> None:
    policy = TEAMS.model_copy(update={"keep_free": {"GPU": 5.0}})
    assert chosen([ticket(1, [GPU] * 4), ticket(2, [GPU] * 3)], policy=policy).start == ("job-2",)


def test_small_jobs_overtake_a_blocked_one_until_it_has_waited_too_long() -> None:
    running = [ticket(1, [GPU])]
    large, small = ticket(2, [GPU] * 8), ticket(3, [GPU])
    assert chosen([large, small], running).start == ("job-3",)
    starving = large.model_copy(update={"blocked_since_s": 1000.0 - 600.0})
    decision = chosen([starving, small], running)
    assert decision.start == ()
    assert decision.waiting["job-3"].startswith("held back for job-2, which has waited 0.2 h")


def test_a_starving_job_keeps_no_one_from_what_it_does_not_need() -> None:
    starving = ticket(2, [{"GPU": 4.0}] * 2).model_copy(update={"blocked_since_s": 0.0})
    assert chosen([starving, ticket(3, [{"CPU": 8.0}]), ticket(4, [GPU])], [ticket(1, [GPU])]).start == ("job-3",)


def test_a_job_that_the_cluster_can_not_hold_any_more_keeps_no_one_waiting() -> None:
    lost = ticket(1, [GPU] * 20).model_copy(update={"blocked_since_s": 0.0})
    decision = chosen([lost, ticket(2, [GPU])], [ticket(3, [GPU])])
    assert decision.start == ("job-2",)
    assert decision.blocked is None
    assert "can't hold it" in decision.waiting["job-1"]


def test_a_team_over_its_quota_waits_and_another_one_goes_on() -> None:
    policy = Policy(teams={"a": Team(accelerator_hours=10.0, per="day"), "b": Team()})
    spans = [Span(team="a", started_s=0.0, ended_s=3 * 3600.0, accelerators=4.0, cpus=0.0)]
    known = standings(spans, policy, 4 * 3600.0)
    waiting = [ticket(2, [GPU], team="a"), ticket(3, [GPU], team="b"), ticket(4, [{"CPU": 1.0}], team="a")]
    decision = chosen(waiting, policy=policy, standings=known, now_s=4 * 3600.0)
    assert set(decision.start) == {"job-3", "job-4"}  # of CPU-hours there is no quota
    assert decision.waiting["job-2"].startswith(
        "team a has used 12 of 10 accelerator-hours per day; below that again at"
    )
    # Two of its twelve hours have left the window half an hour after a day from its start.
    assert "1970-01-02 00:30:0" in decision.waiting["job-2"]


def test_the_team_that_used_less_for_its_weight_comes_first() -> None:
    waiting = [ticket(1, [GPU] * 8, team="a"), ticket(2, [GPU] * 8, team="b")]
    known = {"a": Standing.model_validate({"fair": {"accelerator_hours": 3.0}})}
    assert chosen(waiting, standings=known).start == ("job-2",)
    known["b"] = Standing.model_validate({"fair": {"accelerator_hours": 5.0}})
    assert chosen(waiting, standings=known).start == ("job-2",)  # 2.5 for its weight of 2
    known["b"] = Standing.model_validate({"fair": {"accelerator_hours": 7.0}})
    assert chosen(waiting, standings=known).start == ("job-1",)


def test_teams_that_have_used_nothing_start_in_turn() -> None:
    waiting = [ticket(number, [GPU], team="a") for number in range(8)]
    waiting += [ticket(number, [GPU], team="b") for number in range(8, 16)]
    started = chosen(waiting).start
    assert len([one for one in started if int(one[4:]) >= 8]) == 5  # of eight, for twice the weight


bundles = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 8).map(float), "GPU": st.integers(0, 4).map(float)}),
    min_size=1,
    max_size=4,
).filter(lambda found: place(found, NODES) is not None and any(added(found).values()))
jobs = st.lists(
    st.tuples(bundles, st.sampled_from(["a", "b"]), st.sampled_from([-50, 0, 50]), st.integers(1, 30)),
    min_size=1,
    max_size=14,
)


def simulated(drawn: Sequence[tuple[list[Bundle], str, int, int]]) -> Simulation:
    simulation = Simulation(NODES, TEAMS, {})
    for number, (gang, team, priority, ticks) in enumerate(drawn):
        simulation.waiting.append(ticket(number, gang, team, priority))
        simulation.durations_s[f"job-{number}"] = ticks * TICK_S
    return simulation


@given(jobs)
@settings(max_examples=100, deadline=None)
def test_all_jobs_end_and_no_more_is_given_than_there_is(drawn: list[tuple[list[Bundle], str, int, int]]) -> None:
    simulation = simulated(drawn)
    for _ in range(sum(ticks for *_, ticks in drawn) + 1):  # one after the other takes no longer
        simulation.tick()
        assert all(amount <= added(NODES).get(key, 0.0) for key, amount in added(simulation.reserved()).items())
    assert len(simulation.ended) == len(drawn)


@given(jobs)
@settings(max_examples=100, deadline=None)
def test_no_room_is_left_for_a_job_that_is_not_kept_waiting(drawn: list[tuple[list[Bundle], str, int, int]]) -> None:
    simulation = simulated(drawn)
    for _ in range(sum(ticks for *_, ticks in drawn)):
        simulation.tick()
        for job in simulation.waiting:
            if not simulation.reasons[job.id].startswith("held back"):
                reserved = [*simulation.reserved(), *job.gang.bundles]
                assert place(job.gang.bundles, simulation.free()) is None or place(reserved, NODES) is None


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_stream_of_small_jobs_does_not_starve_a_large_one(seed: int) -> None:
    generator = random.Random(seed)
    simulation = Simulation(NODES, TEAMS, {})
    simulation.waiting.append(ticket(0, [GPU] * 8))
    simulation.durations_s["job-0"] = TICK_S
    for number in range(1, 200):
        simulation.waiting.append(ticket(number, [GPU], "b", submitted_s=simulation.now_s))
        simulation.durations_s[f"job-{number}"] = generator.randint(2, 9) * TICK_S
        if number < 8:
            continue  # they take the cluster before the large one is looked at
        if number == 8:
            first, *rest = simulation.waiting
            simulation.waiting = rest
            simulation.tick()
            simulation.waiting.append(first)
        simulation.tick()
        if "job-0" in simulation.running:
            break
    # Overtaken for ten minutes, then for as long as the jobs that ran by then take.
    assert simulation.now_s <= 600.0 + 9 * TICK_S + 4 * TICK_S
    assert "job-0" in simulation.running


def test_two_gangs_that_each_need_most_of_the_cluster_both_end() -> None:
    simulation = simulated([([GPU] * 6, "a", 0, 5), ([GPU] * 6, "b", 0, 5)])
    at_once = []
    for _ in range(12):
        simulation.tick()
        at_once.append(len(simulation.running))
    assert len(simulation.ended) == 2
    assert max(at_once) == 1


def test_shares_go_to_the_weights() -> None:
    policy = Policy(teams={"a": Team(weight=1.0), "b": Team(weight=2.0), "c": Team(weight=5.0)})
    simulation = Simulation(NODES, policy, {})
    generator = random.Random(0)
    numbers = itertools.count()
    for _ in range(600):
        for team in "abc":
            while sum(one.team == team for one in simulation.waiting) < 8:
                one = ticket(next(numbers), [GPU] * generator.randint(1, 3), team, submitted_s=simulation.now_s)
                simulation.durations_s[one.id] = generator.randint(5, 30) * TICK_S
                simulation.waiting.append(one)
        simulation.tick()
    known = standings(simulation.spans(), policy, simulation.now_s)
    hours = {team: one.fair.accelerator_hours for team, one in known.items()}
    whole = sum(hours.values())
    assert [round(hours[team] / whole, 2) for team in "abc"] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
