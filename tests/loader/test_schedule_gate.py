# SPDX-License-Identifier: Apache-2.0
"""The do-no-harm gate: closed without a gain, open with one, closed again, exact in its state."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader import ConfigError, StateError
from moot.loader.schedule import Gate, GateConfig

SEEDS = st.integers(0, 2**32 - 1)


def run(gate, drop_of, num_pairs, sharpness=0.0):
    """Feed a gate; `drop_of(chunk, is_ordered)`. Returns whether it stood open after each pair."""
    states = []
    for pair in range(num_pairs):
        gate.begin(sharpness)
        for chunk in (2 * pair, 2 * pair + 1):
            drop = drop_of(chunk, gate.orders_next)
            gate.observe(drop if gate.measures_next else None)
        states.append(gate.is_open)
    return np.array(states)


def stationary(rng):
    return rng.normal(size=4000)


def falling(rng):
    """Drops shrink along the run, as training's do, and noise with them."""
    return (1 + 0.5 * rng.normal(size=4000)) / (1 + 0.02 * np.arange(4000))


def wild(rng):
    """Heavy tails and memory: the drops have no mean, and neighbours are alike."""
    return np.convolve(rng.standard_cauchy(4003), np.ones(4), "valid")


def harmful(rng):
    return rng.exponential(size=4000)


@pytest.mark.parametrize("stream", [stationary, falling, wild])
def test_gate_hardly_ever_opens_where_the_order_changes_nothing(stream):
    """At most alpha, over all trials together: 200 runs of 200 trials, alpha = 0.1."""
    num_opened = 0
    for seed in range(200):
        drops = stream(np.random.default_rng(seed))
        gate = Gate(GateConfig(alpha=0.1, trial_every=1, seed=seed))
        num_opened += run(gate, lambda chunk, _, d=drops: d[chunk], 200).any()
    assert num_opened <= 20  # the expectation of the bound; betting leaves room below it


def test_gate_hardly_ever_opens_where_the_order_harms():
    num_opened = 0
    for seed in range(200):
        drops = harmful(np.random.default_rng(seed))
        gate = Gate(GateConfig(alpha=0.1, trial_every=1, seed=seed))
        opened = run(gate, lambda c, is_ordered, d=drops: d[c] - 0.2 * is_ordered, 200)
        num_opened += opened.any()
    assert num_opened <= 4


@settings(max_examples=60)
@given(SEEDS, st.integers(0, 60), st.floats(-10, 10), st.floats(-10, 10))
def test_wealth_does_not_grow_on_average_over_the_draw(seed, num_pairs, first, second):
    """What makes it always valid, trial by trial: the mean over both draws is no more than before.

    Equal but for the cap, whatever the two drops are, as long as the order does not change them.
    """
    drops = np.random.default_rng(seed).normal(size=2 * num_pairs)
    past = Gate(GateConfig(trial_every=1))
    run(past, lambda chunk, is_ordered: drops[chunk] + 0.3 * is_ordered, num_pairs)
    before, after = past._stakes.wealth, []
    for is_first in (False, True):
        gate = Gate(GateConfig(trial_every=1))
        gate.load_state_dict(past.state_dict())
        gate._draws_first = lambda is_first=is_first: is_first
        run(gate, lambda chunk, _: (first, second)[chunk], 1)
        after.append(gate._stakes.wealth)
    if past.is_open and 1.0 in after:  # closed: a new test begins
        return
    assert np.mean(after) <= before * (1 + 1e-12)


def gain_of(gain, seed, num=8000):
    noise = np.random.default_rng(seed).normal(size=num)
    return lambda chunk, is_ordered: noise[chunk] + gain * is_ordered


def test_gate_opens_on_a_gain_and_stays_open():
    """A gain as large as the noise of a chunk: 0.7 of that of a pair."""
    first, open_share = [], []
    for seed in range(60):
        opened = run(Gate(GateConfig(trial_every=1, seed=seed)), gain_of(1.0, seed), 300)
        first.append(opened.argmax() if opened.any() else 300)
        open_share.append(opened[first[-1] :].mean())
    assert np.median(first) < 40
    assert max(first) < 120
    assert np.mean(open_share) > 0.97


def test_gate_closes_when_the_gain_is_lost_and_sooner_when_it_turns():
    lost, turned = [], []
    for seed in range(60):
        for late, closed in ((0.0, lost), (-1.0, turned)):
            gate, with_gain, without = Gate(GateConfig(trial_every=1, seed=seed)), 150, 300
            gain, rest = gain_of(1.0, seed), gain_of(late, seed + 1000)
            opened = run(gate, gain, with_gain)
            after = run(gate, rest, without)
            if opened[-1]:
                closed.append(after.argmin() if not after.all() else without)
    assert min(len(lost), len(turned)) > 50
    assert np.median(turned) < np.median(lost) < 40
    assert max(turned) < 30
    assert np.mean(np.array(lost) < 100) > 0.9


def test_gate_still_opens_on_a_gain_that_begins_late():
    """Wealth that was all put in at the start would be gone by then."""
    num_opened = 0
    for seed in range(20):
        gate = Gate(GateConfig(trial_every=1, seed=seed))
        run(gate, gain_of(0.0, seed), 1000)
        num_opened += run(gate, gain_of(1.0, seed + 1000), 200).any()
    assert num_opened >= 18


def test_gate_leaves_all_but_trials_as_they_came_while_closed_and_orders_them_while_open():
    gate, ordered = Gate(GateConfig(trial_every=3)), []

    def drop(chunk, is_ordered):
        ordered.append(is_ordered)
        return 1.0 + is_ordered

    opened = run(gate, drop, 120)
    pairs = np.reshape(ordered, (-1, 2))
    assert (pairs[::3].sum(axis=1) == 1).all()  # trials: one of the two, always
    rest = np.arange(120) % 3 != 0
    assert (pairs[rest].sum(axis=1) == 2 * opened[rest]).all()
    assert not opened[0] and opened[-1]
    firsts = pairs[::3, 0]
    assert 8 < firsts.sum() < 32  # drawn, not in turn


@pytest.mark.parametrize("sharpness", [0.51, np.inf, np.nan])
def test_gate_refuses_where_the_edges_do_not_hold(sharpness):
    gate = Gate(GateConfig(trial_every=2))
    run(gate, gain_of(3.0, 0), 100)
    assert gate.is_open
    gate.begin(sharpness)
    assert not (gate.is_open or gate.orders_next or gate.measures_next)
    gate.observe()
    assert not gate.orders_next
    gate.observe()
    assert gate.metrics()["schedule/gate_refused"] == 1
    gate.begin(0.5)
    assert gate.is_open and gate.orders_next  # the evidence is still there


@settings(max_examples=30)
@given(SEEDS, st.integers(0, 120), st.integers(0, 2))
def test_a_saved_gate_goes_on_identically(seed, num_pairs, num_chunks):
    """Also in the middle of a pair; the state is JSON and does not grow."""
    drop, refused = gain_of(0.7, seed), np.random.default_rng(seed).random(400) < 0.1

    def play(gate, first, last, log):
        for chunk in range(first, last):
            if gate.needs_sharpness:
                gate.begin(1.0 if refused[chunk] else 0.2)
            log.append((gate.orders_next, gate.is_open))
            gate.observe(drop(chunk, gate.orders_next) if gate.measures_next else None)

    config = GateConfig(seed=seed % 1000)
    whole, other, logs = Gate(config), Gate(config), ([], [])
    stop = 2 * num_pairs + num_chunks
    play(whole, 0, 300, logs[0])
    play(other, 0, stop, logs[1])
    saved = json.dumps(other.state_dict())
    assert len(saved) < 1024
    resumed = Gate(config)
    resumed.load_state_dict(json.loads(saved))
    play(resumed, stop, 300, logs[1])
    assert logs[0] == logs[1]
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.metrics() == whole.metrics()


def test_gate_refuses_what_it_was_not_asked_for():
    gate = Gate(GateConfig(trial_every=1))
    with pytest.raises(StateError, match="begin"):
        gate.observe(1.0)
    gate.begin(0.0)
    with pytest.raises(StateError, match="under way"):
        gate.begin(0.0)
    for drop in (None, np.nan):
        with pytest.raises(ValueError, match="drop is"):
            gate.observe(drop)
    gate.observe(1.0)
    state = gate.state_dict()
    with pytest.raises(StateError, match="the gate was"):
        Gate(GateConfig(seed=1)).load_state_dict(state)
    for wrong in ({"alpha": 0.0}, {"bet": 1.0}, {"trial_every": 0}, {"max_sharpness": np.nan}):
        with pytest.raises(ConfigError, match="gate"):
            GateConfig(**wrong)
