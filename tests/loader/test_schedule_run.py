# SPDX-License-Identifier: Apache-2.0
"""The schedule over horizons, its state, and what it does to a stream of units."""

import itertools
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from corpora import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader import ConfigError, ConsoleConfig, Loader, StateError, Stream
from moot.loader.schedule.config import ScheduleConfig
from moot.loader.schedule.edges import EdgeAverage
from moot.loader.schedule.regression import Regression
from moot.loader.schedule.schedule import Schedule
from moot.loader.schedule.streams import schedule_streams
from moot.loader.steps import BLOCK_STEPS

SEEDS = st.integers(0, 2**32 - 1)


def config(**changes):
    return ScheduleConfig(**{"horizon_steps": 30, "round_steps": 4, "delta": 0.5} | changes)


def losses_of(seed, round_id, num_units):
    rng = np.random.default_rng([seed, round_id])
    return (1 + rng.random(num_units)) / (1 + 0.1 * round_id)


def measured(seed, round_id, num_units, edges):
    """What `observe` takes."""
    losses = losses_of(seed, round_id, num_units)
    if edges == "regression":
        return (losses,)
    rng = np.random.default_rng([seed, round_id, 1])
    graph = np.triu(np.ones((num_units, num_units)), 1)
    influence = 0.2 * rng.normal(size=graph.shape) - graph
    return losses, influence, np.full(graph.shape, 0.1)


def drive(schedule, first, stop, seed=0):
    """Observe some rounds; return the changes and the rounds they decided."""
    num_units, edges = len(schedule.budgets), schedule.config.edges
    changes, rounds = [], []
    for round_id in range(first, stop):
        changes += schedule.observe(round_id, *measured(seed, round_id, num_units, edges))
        rounds.append(schedule.rounds[-1].counts.tolist())
    return changes, rounds


@settings(max_examples=30, deadline=None)
@given(
    SEEDS,
    st.integers(1, 6),
    st.integers(0, 3),
    st.sampled_from(["regression", "lookahead"]),
    st.sampled_from(["mixed", "ordered"]),
)
def test_every_horizon_spends_exactly_its_budgets(seed, num_units, lag, edges, inside):
    weights = np.random.default_rng(seed).integers(20, 40, num_units).tolist()
    chosen = config(lag_rounds=lag, edges=edges, inside=inside)
    schedule = Schedule(weights, chosen, 1 if inside == "ordered" else 4)
    rounds = [made.counts.tolist() for made in schedule.rounds]
    per_horizon = chosen.rounds_per_horizon
    changes, more = drive(schedule, 0, 3 * per_horizon - lag, seed)
    rounds += more
    for horizon in range(3):
        counts = rounds[horizon * per_horizon : (horizon + 1) * per_horizon]
        assert np.array_equal(np.sum(counts, axis=0), schedule.budgets)
    steps = [change.step for change in changes]
    assert steps == sorted(set(steps))
    assert all(first.weights != then.weights for first, then in itertools.pairwise(changes))
    if inside == "ordered" and changes:
        check_blocks(chosen, changes, rounds)


def check_blocks(chosen, changes, rounds):
    """Where every step of a round is of one unit, their numbers are those of the plan."""
    num_steps = chosen.first_step(len(rounds))
    weights = np.zeros((num_steps, len(rounds[0])), int)
    for change in changes:
        weights[change.step :] = change.weights
    num_checked = 0
    for round_id, counts in enumerate(rounds):
        steps = weights[chosen.first_step(round_id) : chosen.first_step(round_id + 1)]
        if len(counts) > 1 and ((steps > 0).sum(axis=1) == 1).all():
            assert (steps > 0).sum(axis=0).tolist() == counts
            num_checked += 1
    assert num_checked or len(rounds[0]) == 1 or chosen.edges == "regression"


@pytest.mark.parametrize("edges", ["regression", "lookahead"])
@pytest.mark.parametrize("num_before", [0, 1, 5, 11])
def test_a_state_goes_on_to_the_bit(edges, num_before):
    chosen, weights = config(edges=edges, inside="mixed", lag_rounds=2), [30, 20, 50]
    whole = Schedule(weights, chosen, 8)
    drive(whole, 0, num_before)
    state = json.loads(json.dumps(whole.state_dict()))
    expected = drive(whole, num_before, 20)
    resumed = Schedule(weights, chosen, 8)
    resumed.load_state_dict(state)
    assert json.dumps(resumed.state_dict()) == json.dumps(state)
    assert drive(resumed, num_before, 20) == expected
    assert resumed.metrics() == whole.metrics()


def test_the_state_of_32_units_is_small_however_long_the_run():
    chosen = ScheduleConfig(horizon_steps=320, round_steps=64, edges="lookahead")
    schedule = Schedule([1] * 32, chosen, 8)
    drive(schedule, 0, 3)
    size = len(json.dumps(schedule.state_dict()))
    drive(schedule, 3, 40)
    assert len(json.dumps(schedule.state_dict())) < min(1.05 * size, 60_000)


def test_a_damaged_state_is_refused_and_changes_nothing():
    schedule = Schedule([30, 20, 50], config(edges="lookahead"), 8)
    drive(schedule, 0, 5)
    good = schedule.state_dict()
    wrong = {
        "remaining": [1, 2],
        "planned": [1, 2, -3],
        "rounds": [],
        "num_observed": -1,
        "losses": [1.0, 0.0, 1.0],
        "average": good["average"] | {"error": "AAAA"},
        "regression": good["regression"] | {"information": good["regression"]["drop"]},
        "per_step": 4,
        "config": good["config"] | {"delta": 0.1},
    }
    for name, value in wrong.items():
        with pytest.raises(StateError):
            schedule.load_state_dict(good | {name: value})
        assert schedule.state_dict() == good
    for state in (None, {}, good | {"more": 1}):
        with pytest.raises(StateError):
            schedule.load_state_dict(state)


def test_edges_go_on_from_their_states():
    rng = np.random.default_rng(0)
    for learnt, fresh in ((EdgeAverage(), EdgeAverage()), (Regression(3), Regression(3))):
        fresh.load_state_dict(json.loads(json.dumps(learnt.state_dict())))
        for _ in range(6):
            one, other = rng.normal(size=(2, 3, 3))
            if isinstance(learnt, EdgeAverage):
                learnt.update(one, np.abs(other))
            else:
                learnt.update(np.abs(one[0]) / np.abs(one[0]).sum(), other[0])
        fresh.load_state_dict(json.loads(json.dumps(learnt.state_dict())))
        assert np.array_equal(fresh.influence, learnt.influence)
        assert np.array_equal(fresh.error, learnt.error)
    with pytest.raises(StateError, match="forget"):
        Regression(3, forget=0.5).load_state_dict(Regression(3).state_dict())
    with pytest.raises(StateError, match="rate"):
        EdgeAverage(0.5).load_state_dict(EdgeAverage().state_dict())


def test_without_influence_nothing_ever_changes():
    quiet = Schedule([30, 20, 50], config(edges="lookahead"), 8)
    for round_id in range(20):
        zeros = np.zeros((3, 3))
        assert quiet.observe(round_id, [1, 1, 1], zeros, zeros) == []
    steady = Schedule([30, 20, 50], config(), 8)
    for round_id in range(20):
        assert steady.observe(round_id, [1, 1, 1]) == []


def test_when_influence_goes_the_rest_of_the_horizon_keeps_the_mix_of_what_is_left():
    schedule = Schedule([30, 20, 50], config(edges="lookahead", lag_rounds=0), 8)
    graph = np.triu(-np.ones((3, 3)), 1)
    assert len(schedule.observe(0, [1, 1, 1], graph, np.zeros((3, 3)))) == 1
    left = (schedule.budgets - schedule.rounds[-1].counts).tolist()
    schedule._average = EdgeAverage()
    assert schedule.observe(1, [1, 1, 1]) == [(4, left)]
    for round_id in range(2, 8):
        assert schedule.observe(round_id, [1, 1, 1]) == []
    assert schedule.observe(8, [1, 1, 1]) == [(30, [30, 20, 50])]  # a new horizon


def test_units_come_in_whole_steps_in_their_order():
    chosen = config(edges="lookahead", inside="ordered", lag_rounds=0, delta=0.0)
    schedule = Schedule([10, 10, 10], chosen)
    graph = np.zeros((3, 3))
    graph[2, 0] = graph[0, 1] = -1  # 2 before 0 before 1
    changes = schedule.observe(0, [1, 1, 1], graph, np.zeros((3, 3)))
    assert schedule.rounds[-1].counts.tolist() == [2, 1, 1]
    assert changes == [(0, [0, 0, 1]), (1, [1, 0, 0]), (3, [0, 1, 0])]


def test_new_budgets_hold_from_the_next_horizon():
    schedule = Schedule([30, 20, 50], config(lag_rounds=1), 8)
    drive(schedule, 0, 3)
    schedule.renew([1, 1, 2])
    rounds = drive(schedule, 3, 15)[1]
    assert np.sum(rounds[4:12], axis=0).tolist() == [60, 60, 120]
    with pytest.raises(ConfigError, match="2 weights for 3 units"):
        schedule.renew([1, 1])


def test_turns_and_settings_are_checked():
    schedule = Schedule([1, 1], config(), 8)
    assert (schedule.round_due(0), schedule.round_due(4)) == (0, None)
    with pytest.raises(StateError, match="round 1 is not due"):
        schedule.observe(1, [1, 1])
    for losses in ([1], [1, 0], [1, np.nan], [1, np.inf]):
        with pytest.raises(ValueError, match="losses"):
            schedule.observe(0, losses)
    with pytest.raises(ValueError, match="by regression"):
        schedule.observe(0, [1, 1], np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="go together"):
        schedule.observe(0, [1, 1], np.zeros((2, 2)))
    assert schedule.observe(0, [1, 1]) == []
    assert schedule.round_due(4) == 1
    with pytest.raises(ConfigError, match="unit 1 gets nothing"):
        Schedule([1000, 1], config())
    with pytest.raises(ConfigError, match="per_step"):
        Schedule([1, 1], config(inside="ordered"), 8)
    for wrong in ({"round_steps": 31}, {"delta": -1}, {"floor": 2}, {"edges": "printed"}):
        with pytest.raises(ConfigError, match=r"schedule\."):
            config(**wrong)


# In the stream: a unit is a stream, a round a mixture from a step on.

SETTINGS = {"batch_rows": 8, "seq_len": 16, "num_slots": 4, "seed": 3, "packing": "pad"}
PACE = {"horizon_steps": 200, "round_steps": 50, "lag_rounds": 2, "edges": "lookahead"}


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    root = tmp_path_factory.mktemp("units")
    for name in "abc":
        write_corpus(root / name, np.full(700, 16), size_limit=1 << 12)
    return [
        Stream(str(root / name), choose=weight)
        for name, weight in zip("abc", (2, 1, 1), strict=True)
    ]


def of_loader(loader, **changes):
    return schedule_streams(
        ScheduleConfig(**PACE | changes),
        loader.config,
        weights=loader._mixture.at(0).tolist(),
        num_strands=loader._source.order.num_strands,
        steps_ahead=loader.config.depth + BLOCK_STEPS + 1,
    )


def read(loader, schedule, steps, influence):
    """Train by the schedule; return the units of every step's rows."""
    first = loader._source.corpus.first_shard
    drawn, stream = [], iter(loader)
    for _ in range(steps):
        done = len(drawn) + getattr(loader, "first", 0)
        if schedule is not None and (due := schedule.round_due(done)) is not None:
            for change in schedule.observe(due, [1.0] * 3, influence, np.zeros((3, 3))):
                loader.set_mixture(change.weights, change.step)
        next(stream)
        shard = loader._recent[done][0].shard
        drawn.append(np.searchsorted(first, shard, side="right") - 1)
    return drawn


def test_a_stream_without_influence_is_as_without_a_schedule(units):
    with Loader(units, **SETTINGS) as loader:
        plain = read(loader, None, 250, None)
    with Loader(units, **SETTINGS) as loader:
        schedule = of_loader(loader)
        paced = read(loader, schedule, 250, np.zeros((3, 3)))
    assert all(np.array_equal(one, other) for one, other in zip(plain, paced, strict=True))


def test_a_paced_stream_draws_what_is_planned_and_resumes_inside_a_round(units):
    graph = np.zeros((3, 3))
    graph[2, 0] = graph[0, 1] = -1
    with Loader(units, **SETTINGS) as loader:
        schedule = of_loader(loader)
        drawn = read(loader, schedule, 230, graph)
        states = json.loads(json.dumps([loader.state_dict(), schedule.state_dict()]))
        rest = read_on(loader, schedule, 230, 170, graph)
    everything = np.concatenate([*drawn, *rest])
    for horizon in range(2):
        part = everything[horizon * 1600 : (horizon + 1) * 1600]
        assert Counter(part.tolist()) == {0: 800, 1: 400, 2: 400}  # the budgets, exactly
    third = Counter(everything[100 * 8 : 150 * 8].tolist())
    assert third[2] > 100 > third[1]  # of 400, by budget 100 each
    with Loader(units, **SETTINGS) as loader:
        schedule = of_loader(loader)
        loader.load_state_dict(states[0])
        schedule.load_state_dict(states[1])
        again = read_on(loader, schedule, 230, 170, graph)
    assert np.array_equal(np.concatenate(again), np.concatenate(rest))


def read_on(loader, schedule, first, steps, influence):
    loader.first = first
    return read(loader, schedule, steps, influence)


@pytest.mark.parametrize(
    ("changes", "paced", "message"),
    [
        ({"console": ConsoleConfig()}, {}, "labels inline"),
        ({"order": "mosaic"}, {}, "order='strands'"),
        ({}, {"lag_rounds": 1}, "at least 73 steps"),
    ],
)
def test_what_cannot_be_paced_is_refused_by_name(units, changes, paced, message):
    settings = SimpleNamespace(**{"console": None, "order": "strands", "batch_rows": 8} | changes)
    settings.selects_inline = settings.console is not None
    ways = {"weights": [1, 1], "num_strands": 2, "steps_ahead": 73}
    with pytest.raises(ConfigError, match=message):
        schedule_streams(ScheduleConfig(**PACE | paced), settings, **ways)
    with pytest.raises(ConfigError, match="here is one"):
        settings.selects_inline, settings.order = False, "strands"
        schedule_streams(ScheduleConfig(**PACE), settings, **ways | {"weights": [1]})
