# SPDX-License-Identifier: Apache-2.0
"""The console: both modes against the mathematics, the published defects, policies by step.

Most tests drive the console with a simulated corpus: documents are joint cells of three independent
agents, and a reward is a function of the states plus noise.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.agents import AgentInfo, AgentSet, state_means
from moot.loader.console import Console, ConsoleConfig, Policy
from moot.loader.console.default import measure_advantage, shrunk
from moot.loader.errors import AgentError, ConfigError, StateError
from moot.loader.probes.stratify import stratify
from moot.triton_kernels.document_scores import NgramModel
from moot.triton_kernels.select import select

NUM_STATES = (5, 7, 13)
NAMES = ("quality", "domain", "topic")
U, LAG = 10, 3


def make_agents(num_states=NUM_STATES, names=NAMES, seed=0):
    """Agents whose states are independent in the pool, with uneven shares."""
    rng = np.random.default_rng(seed)
    infos = tuple(
        AgentInfo(name, num, tuple(f"{name}{state}" for state in range(num)), "stored", name)
        for name, num in zip(names, num_states, strict=True)
    )
    grid = np.meshgrid(*[np.arange(num) for num in num_states], indexing="ij")
    cells = np.stack(grid, axis=-1).reshape(-1, len(num_states)).astype(np.int32)
    share = np.ones(len(cells))
    for agent, num in enumerate(num_states):
        share *= rng.dirichlet(np.full(num, 4.0))[cells[:, agent]]
    model = NgramModel(
        table=torch.zeros(2, 16, dtype=torch.int8),
        heads=torch.zeros(1, 16, dtype=torch.int16),
        bias=torch.zeros(1, dtype=torch.int32),
        scale=torch.ones(1),
        orders=(1,),
    )
    return AgentSet(infos, model, cells, share / share.sum())


class World:
    """A simulated corpus: draws probes, knows what each document is worth."""

    def __init__(self, agents, effects=None, noise=1.0, seed=0, num_probes=192):
        self.agents = agents
        self.effects = effects or [np.zeros(num) for num in agents.num_states]
        self.noise = noise
        self.rng = np.random.default_rng(seed)
        self.num_probes = num_probes

    def pool(self, size):
        cell = self.rng.choice(len(self.agents.pool_share), size=size, p=self.agents.pool_share)
        return self.agents.pool_states[cell]

    def worth(self, states):
        return sum(effect[states[:, agent]] for agent, effect in enumerate(self.effects))

    def probes(self, mode):
        """Return ids, states, weights, rewards, agent_of."""
        pool = self.pool(6 * self.num_probes)
        seed = int(self.rng.integers(1 << 60))
        draw = stratify(pool, self.agents.cells(pool), self.num_probes, seed, mode)
        states = pool[draw.indices]
        rewards = self.worth(states) + self.noise * self.rng.normal(size=len(states))
        return np.arange(len(states)), states, draw.weights, rewards, draw.agent_of

    def train(self, console, num_refreshes):
        """Credit refreshes; returns theta after each: [num_refreshes, A]."""
        first = console.version + 1
        policies = [
            console.credit(refresh, *self.probes(console.config.mode))
            for refresh in range(first, first + num_refreshes)
        ]
        return np.array([policy.theta for policy in policies])


def make_console(agents, **settings):
    return Console(ConsoleConfig(refresh_steps=U, policy_lag=LAG, **settings), agents)


def spread_effect(agents, agent, size):
    """An effect of one agent's states: pool mean 0, pool standard deviation `size`."""
    share = agents.pool_frequencies()[agent]
    effect = np.cos(2.0 * np.arange(len(share)))
    effect -= (share * effect).sum()
    return size * effect / np.sqrt((share * effect**2).sum())


def only(agents, agent, size):
    effects = [np.zeros(num) for num in agents.num_states]
    effects[agent] = spread_effect(agents, agent, size)
    return effects


def as_text(console):
    return json.dumps(console.state_dict())


def same_policy(first, second):
    arrays = ("theta", "memory", "shift", "scale")
    same = all(np.array_equal(getattr(first, a), getattr(second, a)) for a in arrays)
    numbers = ("version", "effective_step", "temperature")
    return same and all(getattr(first, a) == getattr(second, a) for a in numbers)


# Published mode against the paper -----------------------------------------------------------------


def transcribe(theta, memory, states, rewards, agent_of, eta):
    """Eq 4-8 in numpy, as printed."""
    returns = []
    for agent, w in enumerate(memory):
        mine = agent_of == agent
        for j in range(len(w)):
            chosen = rewards[mine & (states[:, agent] == j)]
            if len(chosen):
                w[j] = (1 - eta) * w[j] + eta * chosen.mean()
        mean = np.array([
            rewards[mine & (states[:, agent] == j)].mean()
            if (mine & (states[:, agent] == j)).any()
            else 0.0
            for j in range(len(w))
        ])
        returns.append((w * mean).sum() / len(w))
    return theta + eta * (np.array(returns) - np.mean(returns))


def test_published_equals_the_equations():
    agents = make_agents()
    effects = [spread_effect(agents, agent, 0.5) for agent in range(3)]
    world = World(agents, effects, seed=4)
    console = make_console(agents, mode="published", eta=0.2)
    theta = np.full(3, 1 / 3)
    memory = [np.full(num, 1 / num) for num in NUM_STATES]
    for refresh in range(1, 9):
        probes = world.probes("published")
        theta = transcribe(theta, memory, probes[1], probes[3], probes[4], 0.2)
        policy = console.credit(refresh, *probes)
        np.testing.assert_allclose(policy.theta, theta, rtol=1e-6)
        np.testing.assert_allclose(console.state_dict()["updates"]["theta"], theta, rtol=1e-12)
        for agent, w in enumerate(memory):
            saved = console.state_dict()["updates"]["memory"][agent]
            np.testing.assert_allclose(saved, w, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(policy.memory[agent, : len(w)], w, rtol=1e-6, atol=1e-7)
        assert policy.temperature == 0.0
        assert (policy.shift == 0).all() and (policy.scale == 1).all()


def test_published_starts_where_it_is_told():
    agents = make_agents((2, 3), ("quality", "domain"))
    first = make_console(agents, mode="published").policy(0)
    np.testing.assert_allclose(first.memory, [[1 / 2, 1 / 2, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(first.theta, [0.5, 0.5])
    given = {"quality": (1.0, 2.0), "domain": (3.0, 4.0, 5.0)}
    theta = {"quality": 0.9, "domain": 0.3}
    told = make_console(agents, mode="published", memory=given, theta=theta).policy(0)
    assert told.memory.tolist() == [[1, 2, 0], [3, 4, 5]]
    np.testing.assert_allclose(told.theta, [0.9, 0.3])


def test_published_needs_to_know_whose_a_probe_is():
    agents = make_agents()
    console = make_console(agents, mode="published")
    probes = World(agents).probes("default")
    with pytest.raises(AgentError, match="agent_of"):
        console.credit(1, *probes)
    assert console.version == 0


# The published method's defects, and the default mode without them --------------------------------


def drift(mode, seeds=6, refreshes=200):
    """Theta minus 1/3 under rewards of pure noise: [seeds, refreshes, A]."""
    agents = make_agents()
    traces = [
        World(agents, seed=seed).train(make_console(agents, mode=mode), refreshes)
        for seed in range(seeds)
    ]
    return np.array(traces) - 1 / 3


def test_noise_agents_keep_theta_in_default_mode():
    drifts = drift("default")
    assert np.abs(drifts).max() < 0.01
    assert np.abs(drifts[:, 20:].mean(axis=(0, 1))).max() < 0.002


def test_noise_agents_with_many_states_gain_in_published_mode():
    end = drift("published")[:, -1].mean(axis=0)
    assert end[2] > 0.1 > end[0]  # 13 states gain on 5, from noise alone


def test_advantage_needs_the_memory_before_the_refresh():
    agents = make_agents()
    pools = [share.tolist() for share in agents.pool_frequencies()]
    world = World(agents, seed=1)
    before, after = np.zeros((2, 300, 3))
    memory = [[0.0] * num for num in NUM_STATES]
    for refresh in range(300):
        _, states, weights, rewards, _ = world.probes("default")
        for agent, num in enumerate(NUM_STATES):
            seen = state_means(states[:, agent], rewards, weights, num)
            old, memory[agent] = memory[agent], seen.mean
            for result, used in ((before, old), (after, memory[agent])):
                advantage, error = measure_advantage(pools[agent], used, seen, 1.0)
                result[refresh, agent] = advantage / error if error > 0 else 0.0
    assert np.abs(before.mean(axis=0)).max() < 0.2
    gains = after.mean(axis=0)
    assert gains[0] > 0.8 and gains[2] > gains[1] > gains[0]


def test_published_theta_is_blind_to_the_sign_of_rewards():
    agents = make_agents()
    zero = {name: (0.0,) * num for name, num in zip(NAMES, NUM_STATES, strict=True)}
    world = World(agents, only(agents, 0, 1.0), noise=0.3, seed=3)
    consoles = [make_console(agents, mode="published", memory=zero) for _ in range(2)]
    for refresh in range(1, 6):
        ids, states, weights, rewards, agent_of = world.probes("published")
        for console, sign in zip(consoles, (1.0, -1.0), strict=True):
            console.credit(refresh, ids, states, weights, sign * rewards, agent_of)
    helped, harmed = (console.policy(5 * U + LAG) for console in consoles)
    assert np.array_equal(helped.theta, harmed.theta)
    assert np.array_equal(helped.memory, -harmed.memory)


def test_default_theta_falls_when_following_the_memory_harmed():
    agents = make_agents()
    world, ends = World(agents, only(agents, 0, 1.0), noise=0.3, seed=2), []
    learnt = make_console(agents)
    world.train(learnt, 3)
    ids, states, weights, rewards, _ = world.probes("default")
    for sign in (1.0, -1.0):
        console = make_console(agents)
        console.load_state_dict(learnt.state_dict())
        ends.append(console.credit(4, ids, states, weights, sign * rewards).theta[0])
    assert ends[1] < learnt.policy(3 * U + LAG).theta[0] < ends[0]


def test_published_theta_leaves_the_simplex_and_default_stays():
    agents = make_agents()
    for mode in ("published", "default"):
        world = World(agents, only(agents, 0, 4.0), noise=0.1, seed=1)
        thetas = world.train(make_console(agents, mode=mode), 60)
        np.testing.assert_allclose(thetas.sum(axis=1), 1.0, atol=1e-4)
        inside = (thetas >= 0).all() and (thetas <= 1).all()
        assert inside == (mode == "default")


def test_published_return_falls_with_the_number_of_states():
    agents = make_agents((2, 4), ("coarse", "fine"))
    coarse = World(agents).pool(400)[:, 0]
    half = np.arange(400) % 2
    states = np.stack([coarse, 2 * coarse + half], axis=1).astype(np.int32)  # the same knowledge
    rewards = 1.0 + coarse
    console = make_console(agents, mode="published")
    twice = np.repeat(np.arange(2), 400)
    console.credit(
        1, np.arange(800), np.tile(states, (2, 1)), np.ones(800), np.tile(rewards, 2), twice
    )
    returns = console.metrics()
    assert returns["console/return/coarse"] > 1.5 * returns["console/return/fine"]


def test_default_advantage_does_not_depend_on_how_finely_an_agent_splits():
    rng = np.random.default_rng(0)
    coarse = rng.choice(2, size=400, p=[0.3, 0.7])
    fine = 2 * coarse + np.arange(400) % 2
    rewards, weights = coarse - 0.7, np.ones(400)
    advantages = []
    for states, num in ((coarse, 2), (fine, 4)):
        pool = (np.bincount(states, minlength=num) / 400).tolist()
        seen = state_means(states.astype(np.int32), rewards, weights, num)
        advantages.append(measure_advantage(pool, [m * 0.5 for m in seen.mean], seen, 1.0)[0])
    np.testing.assert_allclose(*advantages, rtol=1e-9)


def test_published_depends_on_the_unit_of_rewards_and_default_does_not():
    agents = make_agents()
    effects = [spread_effect(agents, agent, 0.3 + 0.2 * agent) for agent in range(3)]
    ends = {}
    for mode in ("published", "default"):
        for unit, offset in ((1.0, 0.0), (0.0078125, 0.0), (100.0, 7.0)):
            world, console = World(agents, effects, seed=6), make_console(agents, mode=mode)
            for refresh in range(1, 7):
                ids, states, weights, rewards, agent_of = world.probes(mode)
                console.credit(refresh, ids, states, weights, rewards * unit + offset, agent_of)
            ends[mode, unit] = console.policy(6 * U + LAG)
    default = [ends["default", unit] for unit in (1.0, 0.0078125, 100.0)]
    assert same_policy(default[0], default[1])  # a power of two: not one bit moves
    np.testing.assert_allclose(default[0].theta, default[2].theta, rtol=1e-6)
    np.testing.assert_allclose(default[0].memory, default[2].memory, rtol=1e-4, atol=1e-6)
    small, usual = ends["published", 0.0078125].theta, ends["published", 1.0].theta
    assert np.abs(small - 1 / 3).max() < 0.05 * np.abs(usual - 1 / 3).max()


# Theta and memories in both modes -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["default", "published"])
@pytest.mark.parametrize("agent", range(3), ids=NAMES)
def test_theta_reacts_to_the_right_agent(mode, agent):
    agents = make_agents()
    ends = []
    for size in (1.0, 3.0):  # tripling this agent's rewards must show, in this agent's theta
        world = World(agents, only(agents, agent, size), noise=1.0, seed=3)
        ends.append(world.train(make_console(agents, mode=mode), 12)[-1])
    assert int(np.argmax(ends[0])) == agent
    assert ends[0][agent] > 1 / 3 + 0.05
    assert ends[1][agent] > ends[0][agent] + 0.05


@pytest.mark.parametrize("mode", ["default", "published"])
def test_a_single_agents_probes_move_only_what_they_should(mode):
    """A reward that depends on the domain leaves the other agents' memories at noise."""
    agents = make_agents()
    world = World(agents, only(agents, 1, 1.0), noise=0.2, seed=8)
    console = make_console(agents, mode=mode, eta=0.5)
    world.train(console, 15)
    spread = [console.metrics()[f"agent/{name}/spread"] for name in NAMES]
    assert spread[1] > 3 * max(spread[0], spread[2])


def test_memories_are_sharp_after_a_few_refreshes():
    agents = make_agents()
    effects = [spread_effect(agents, agent, size) for agent, size in ((0, 0.4), (1, 0.3), (2, 0.3))]
    console = make_console(agents)
    World(agents, effects, noise=0.8, seed=2).train(console, 12)
    policy = console.policy(12 * U + LAG)
    for agent, effect in enumerate(effects):
        share = agents.pool_frequencies()[agent]
        learnt = policy.memory[agent, : len(effect)] - policy.shift[agent]
        cosine = (share * learnt * effect).sum() / np.sqrt(
            (share * learnt**2).sum() * (share * effect**2).sum()
        )
        assert cosine > 0.9


def test_default_update_by_hand():
    agents = make_agents((2,), ("quality",))
    prior = {"quality": (3.0, 1.0)}
    console = make_console(agents, clip=None, shrink=6.0, discount=0.5, tau=0.7, prior=prior)
    states = np.array([[0], [0], [1], [1]], np.int32)
    rewards = np.array([5.0, 1.0, 2.0, 0.0])
    policy = console.credit(1, np.arange(4), states, np.array([2.0, 1.0, 1.0, 1.0]), rewards)
    mean = 13 / 5
    sd = math.sqrt((2 * 2.4**2 + 1.6**2 + 0.6**2 + 2.6**2) / 5)
    z = (rewards - mean) / sd
    number, seen = np.array([9 / 5, 2.0]), np.array([(2 * z[0] + z[1]) / 3, (z[2] + z[3]) / 2])
    share = agents.pool_frequencies()[0]
    odds = np.log(np.array([0.75, 0.25]) / share)
    np.testing.assert_allclose(policy.memory[0], odds + seen * number / (number + 6.0), rtol=1e-6)
    tilt = share * np.exp(odds / 0.7)
    tilt = tilt / tilt.sum() - share
    metrics = console.metrics()
    np.testing.assert_allclose(metrics["console/advantage/quality"], (tilt * seen).sum())
    error = math.sqrt((tilt**2 / number).sum())
    np.testing.assert_allclose(metrics["console/advantage_error/quality"], error)
    assert policy.theta.tolist() == [1.0]


def test_theta_is_the_discounted_exponentiated_gradient():
    agents = make_agents()
    world = World(agents, only(agents, 0, 1.0), seed=1)
    console = make_console(agents, eta=0.7, theta_discount=0.8)
    log_theta = np.zeros(3)
    for refresh in range(1, 6):
        policy = console.credit(refresh, *world.probes("default"))
        metrics = console.metrics()
        steps = [
            shrunk(metrics[f"console/advantage/{n}"], metrics[f"console/advantage_error/{n}"])
            for n in NAMES
        ]
        log_theta = 0.8 * log_theta + 0.7 * np.array(steps)
        want = np.exp(log_theta) / np.exp(log_theta).sum()
        np.testing.assert_allclose(policy.theta, want, rtol=1e-6)


def test_shrunk_keeps_the_sign_and_most_of_what_is_certain():
    assert shrunk(0.0, 1.0) == shrunk(0.0, 0.0) == 0.0
    assert shrunk(1.0, 0.0) == 1.0
    assert shrunk(-1.0, 1.0) == -0.5
    assert 0 < shrunk(0.1, 1.0) < 0.001


@given(
    st.integers(0, 10_000),
    st.floats(1e-6, 1e6),
    st.floats(0.01, 50.0),
    st.sampled_from([0.5, 0.9, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_default_theta_stays_on_the_simplex(seed, size, eta, theta_discount):
    agents = make_agents((2, 3), ("a", "b"))
    effects = [np.array([-size, size]), np.array([0.0, size, -size])]
    world = World(agents, effects, seed=seed, num_probes=12)
    console = make_console(agents, eta=eta, theta_discount=theta_discount, tau=0.05)
    thetas = world.train(console, 12)
    assert (thetas >= 0).all()
    np.testing.assert_allclose(thetas.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("mode", ["default", "published"])
def test_frozen_theta_stays_while_memories_move(mode):
    agents = make_agents()
    console = make_console(agents, mode=mode, freeze_theta=True)
    thetas = World(agents, only(agents, 0, 2.0)).train(console, 6)
    np.testing.assert_allclose(thetas, 1 / 3, rtol=1e-6)
    before, after = console.policy(5 * U + LAG).memory, console.policy(6 * U + LAG).memory
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("mode", ["default", "published"])
def test_order_of_probes_is_irrelevant_bit_for_bit(mode):
    agents = make_agents()
    world = World(agents, only(agents, 1, 1.0), seed=7)
    rng = np.random.default_rng(0)
    straight, shuffled = (make_console(agents, mode=mode) for _ in range(2))
    for refresh in range(1, 6):
        ids, states, weights, rewards, agent_of = world.probes(mode)
        rewards = rewards * np.exp(4 * rng.normal(size=len(rewards)))  # sums that round differently
        straight.credit(refresh, ids, states, weights, rewards, agent_of)
        turn = rng.permutation(len(ids))
        owners = None if agent_of is None else agent_of[turn]
        shuffled.credit(refresh, ids[turn], states[turn], weights[turn], rewards[turn], owners)
    assert as_text(straight) == as_text(shuffled)
    assert straight.metrics() == shuffled.metrics()


# Scores: shift, scale, temperature ----------------------------------------------------------------


def score(policy, states):
    votes = np.stack([policy.memory[a, states[:, a]] for a in range(states.shape[1])], axis=1)
    return ((votes - policy.shift) * policy.scale * policy.theta).sum(axis=1), votes


def test_votes_are_centred_and_uniform_theta_sums_them():
    agents = make_agents()
    effects = [spread_effect(agents, agent, 0.4) for agent in range(3)]
    console = make_console(agents, freeze_theta=True, temperature=0.25)
    World(agents, effects, noise=0.5).train(console, 8)
    policy = console.policy(8 * U + LAG)
    scores, votes = score(policy, agents.pool_states)
    share = agents.pool_share
    assert abs((share * scores).sum()) < 1e-5
    np.testing.assert_allclose(scores, (votes - policy.shift).sum(axis=1), atol=1e-5)
    spread = math.sqrt((share * scores**2).sum())
    np.testing.assert_allclose(policy.temperature, 0.25 * spread, rtol=1e-4)


def test_score_does_not_weaken_as_agents_are_added():
    spreads = []
    for num in (1, 2, 3):
        agents = make_agents(NUM_STATES[:num], NAMES[:num])
        console = make_console(agents, freeze_theta=True)
        World(agents, only(agents, 0, 1.0), noise=0.5, seed=1).train(console, 10)
        scores, _ = score(console.policy(10 * U + LAG), agents.pool_states)
        spreads.append(math.sqrt((agents.pool_share * scores**2).sum()))
    assert min(spreads) > 0.85 * max(spreads)


@pytest.mark.parametrize("mode", ["default", "published"])
def test_before_the_first_refresh_all_candidates_tie(mode):
    agents = make_agents()
    policy = make_console(agents, mode=mode).policy(0)
    scores, _ = score(policy, agents.pool_states)
    assert np.ptp(scores) == 0.0
    assert policy.temperature == 0.0 and policy.version == policy.effective_step == 0


def test_selection_follows_the_agent_that_determines_the_reward():
    agents = make_agents()
    world = World(agents, only(agents, 1, 1.0), noise=1.0, seed=5)
    console = make_console(agents)
    kept_worth, domain = [], []
    for refresh in range(13):
        if refresh:
            console.credit(refresh, *world.probes("default"))
        policy = console.policy(refresh * U + LAG)
        states = world.pool(2048)
        _, votes = score(policy, states)
        selection = select(
            torch.from_numpy(votes)[None],
            torch.from_numpy(policy.theta),
            torch.full((1, 2048), 100, dtype=torch.int32),
            torch.arange(2048)[None],
            shift=torch.from_numpy(policy.shift),
            scale=torch.from_numpy(policy.scale),
            seed=refresh,
            temperature=policy.temperature,
            max_count=512,
            budget_tokens=None,
            implementation="reference",
        )
        kept = selection.order[0, : int(selection.num_kept[0])].numpy()
        assert len(kept) == 512
        kept_worth.append(world.worth(states)[kept].mean())
        domain.append(float(policy.theta[1]))
    best = np.sort(world.worth(world.pool(20_000)))[-5000:].mean()
    assert abs(kept_worth[0]) < 0.15  # the first policy selects at random
    assert np.mean(kept_worth[-4:]) > 0.9 * best
    assert domain[-1] > 0.5 > domain[0]


# Policies by step ---------------------------------------------------------------------------------


def test_policy_takes_effect_by_step_and_not_before():
    agents = make_agents()
    world, console = World(agents), make_console(agents)
    assert [console.refresh_due(step) for step in (0, 1, U - 1, U, U + 1)] == [
        None, None, None, 1, None,
    ]  # fmt: skip
    assert console.settled(U + LAG - 1) and not console.settled(U + LAG)
    assert console.awaited(U + LAG - 1) is None and console.awaited(U + LAG) == 1
    with pytest.raises(StateError, match=r"step 13 needs policy 1, but refresh 1"):
        console.policy(U + LAG)
    policy = console.credit(1, *world.probes("default"))
    assert policy.effective_step == U + LAG and policy.version == 1
    assert console.refresh_due(U) is None
    assert console.policy(U + LAG - 1).version == 0
    for step in range(U + LAG, 2 * U + LAG):
        assert console.policy(step) is policy and console.settled(step)
    assert not console.settled(2 * U + LAG)


def test_policy_lag_may_span_refreshes():
    agents = make_agents((2,), ("quality",))
    world = World(agents, num_probes=8)
    console = Console(ConsoleConfig(refresh_steps=4, policy_lag=11), agents)
    for refresh in range(1, 7):
        console.credit(refresh, *world.probes("default"))
        now = refresh * 4
        for step in range(now - 4, now + 12):
            assert console.policy(step).version == max(0, (step - 11) // 4)
    with pytest.raises(StateError, match="no longer kept"):
        console.policy(0)


def test_credit_twice_late_or_ahead_is_an_error():
    agents = make_agents()
    world, console = World(agents), make_console(agents)
    probes = world.probes("default")
    with pytest.raises(StateError, match="refresh 2 comes before refresh 1"):
        console.credit(2, *probes)
    console.credit(1, *probes)
    console.credit(2, *probes)
    before = as_text(console)
    for refresh in (0, 1, 2):
        with pytest.raises(StateError, match="late or twice: 2 refreshes"):
            console.credit(refresh, *probes)
    assert as_text(console) == before


def test_skipped_refreshes_are_counted_and_late_rewards_enter_the_next_version():
    agents = make_agents()
    world, console = World(agents, only(agents, 0, 1.0)), make_console(agents)
    first = world.probes("default")
    console.skip(2 * U + LAG)
    assert console.version == 2 and console.metrics()["console/num_skipped"] == 2.0
    assert (console.policy(2 * U + LAG).memory == 0).all()
    assert console.refresh_due(U) == 1
    late = console.credit(1, *first)
    assert late is console.policy(2 * U + LAG) and (late.memory == 0).all()
    with pytest.raises(StateError, match="late or twice"):
        console.credit(1, *first)
    restored = make_console(agents)
    restored.load_state_dict(json.loads(as_text(console)))
    third = world.probes("default")
    assert same_policy(console.credit(3, *third), restored.credit(3, *third))
    alone = make_console(agents)
    alone.skip(2 * U + LAG)
    alone.credit(3, *third)
    assert not np.array_equal(alone.policy(3 * U + LAG).memory, console.policy(3 * U + LAG).memory)


def test_bad_credit_names_the_probes_and_changes_nothing():
    agents = make_agents()
    console = make_console(agents)
    ids, states, weights, rewards, _ = World(agents).probes("default")
    before = as_text(console)
    broken = rewards.copy()
    broken[[3, 8]] = np.nan, np.inf
    with pytest.raises(AgentError, match=r"refresh 1: rewards .* 2 probes \(ids 1003, 1008\)"):
        console.credit(1, ids + 1000, states, weights, broken)
    with pytest.raises(AgentError, match=r"weights .* \(ids 0\)"):
        console.credit(1, ids, states, np.r_[0.0, weights[1:]], rewards)
    outside = states.copy()
    outside[5, 0] = 5
    with pytest.raises(AgentError, match=r"states out of range .* \(ids 5\)"):
        console.credit(1, ids, outside, weights, rewards)
    with pytest.raises(AgentError, match=r"rewards \(191,\) for 192"):
        console.credit(1, ids, states, weights, rewards[1:])
    with pytest.raises(AgentError, match="no probes"):
        console.credit(1, ids[:0], states[:0], weights[:0], rewards[:0])
    assert as_text(console) == before


def test_equal_rewards_teach_nothing():
    agents = make_agents()
    console = make_console(agents)
    ids, states, weights, rewards, _ = World(agents).probes("default")
    policy = console.credit(1, ids, states, weights, np.full(len(rewards), 0.1))
    assert (policy.memory == 0).all() and policy.temperature == 0.0
    one = console.credit(2, ids[:1], states[:1], weights[:1], rewards[:1])
    np.testing.assert_allclose(one.theta, 1 / 3)


def test_one_outlier_does_not_silence_the_rest():
    agents = make_agents()
    spreads = {}
    for clip in (None, 4.0):
        world, console = (
            World(agents, only(agents, 0, 1.0), noise=0.5),
            make_console(agents, clip=clip),
        )
        for refresh in range(1, 6):
            ids, states, weights, rewards, _ = world.probes("default")
            rewards[refresh] += 500.0
            policy = console.credit(refresh, ids, states, weights, rewards)
        share, effect = agents.pool_frequencies()[0], world.effects[0]
        learnt = policy.memory[0, : len(effect)] - policy.shift[0]
        spreads[clip] = (share * learnt * effect).sum()
    assert spreads[4.0] > 2 * spreads[None]


# Fixed mode ---------------------------------------------------------------------------------------


def test_fixed_never_moves_and_is_a_static_threshold():
    agents = make_agents()
    memory = {"quality": (0.0, 1.0, 2.0, 3.0, 4.0)}
    console = make_console(agents, mode="fixed", memory=memory, theta={"quality": 1.0})
    assert console.refresh_due(U) is None and console.settled(10**9)
    policy = console.policy(10**9)
    assert policy is console.policy(0)
    scores, _ = score(policy, agents.pool_states)
    order = np.argsort(-scores, kind="stable")
    assert (np.diff(agents.pool_states[order, 0]) <= 0).all()
    assert policy.temperature == 0.0
    with pytest.raises(StateError, match="'fixed' takes no credit"):
        console.credit(1, *World(agents).probes("default"))
    restored = make_console(agents, mode="fixed", memory=memory, theta={"quality": 1.0})
    restored.load_state_dict(json.loads(as_text(console)))
    assert same_policy(restored.policy(0), policy)


# State --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["default", "published"])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_state_midway_gives_identical_policies(mode, stop):
    agents = make_agents()
    world, console = World(agents, only(agents, 2, 1.0), seed=9), make_console(agents, mode=mode)
    credits = [world.probes(mode) for _ in range(9)]
    for refresh, probes in enumerate(credits[:stop], start=1):
        console.credit(refresh, *probes)
    resumed = make_console(agents, mode=mode)
    resumed.load_state_dict(json.loads(as_text(console)))
    assert as_text(resumed) == as_text(console)
    assert resumed.metrics() == console.metrics()
    for step in range(max(0, stop - 1) * U, stop * U + LAG):
        assert same_policy(resumed.policy(step), console.policy(step))
    for refresh, probes in enumerate(credits[stop:], start=stop + 1):
        assert same_policy(resumed.credit(refresh, *probes), console.credit(refresh, *probes))
    assert as_text(resumed) == as_text(console)


@pytest.mark.parametrize("mode", ["default", "published"])
def test_state_does_not_grow_with_refreshes(mode):
    agents = make_agents()
    world, console = World(agents, num_probes=30), make_console(agents, mode=mode)
    sizes = []
    for _ in range(40):
        world.train(console, 1)
        sizes.append(len(as_text(console)))
    assert max(sizes) < 8192
    assert max(sizes[20:]) - max(sizes[2:20]) < 200


def test_a_foreign_state_is_refused():
    console = make_console(make_agents())
    good = console.state_dict()
    for other, match in (
        (make_console(make_agents(), mode="published"), "mode default, this one published"),
        (make_console(make_agents(names=("quality", "source", "topic"))), "agents"),
        (make_console(make_agents((5, 7, 12))), "agents"),
        (Console(ConsoleConfig(refresh_steps=11, policy_lag=LAG), make_agents()), "refresh_steps"),
        (Console(ConsoleConfig(refresh_steps=U, policy_lag=4), make_agents()), "policy_lag"),
    ):
        with pytest.raises(StateError, match=match):
            other.load_state_dict(good)
    with pytest.raises(StateError, match="lacks"):
        console.load_state_dict({key: good[key] for key in good if key != "updates"})


def test_policy_survives_json():
    agents = make_agents()
    console = make_console(agents)
    World(agents, only(agents, 0, 1.0)).train(console, 2)
    policy = console.policy(2 * U + LAG)
    assert same_policy(Policy.from_dict(json.loads(json.dumps(policy.to_dict()))), policy)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, match",
    [
        ({"mode": "best"}, "mode is 'best'"),
        ({"refresh_steps": 0}, "refresh_steps is 0"),
        ({"policy_lag": -1}, "policy_lag is -1"),
        ({"tau": 0.0}, "tau is 0.0, must be > 0"),
        ({"discount": 1.5}, r"discount is 1.5, must be in \(0, 1\]"),
        ({"eta": math.nan}, "eta is nan"),
        ({"shrink": "ten"}, "shrink is 'ten'"),
        ({"mode": "published", "temperature": 0.1}, "takes the top k"),
        ({"mode": "fixed"}, "needs a memory"),
        ({"memory": {"quality": (0.0,) * 5}}, "set a prior instead"),
        ({"mode": "published", "prior": {}}, "set a memory instead"),
        ({"refresh_step": 3}, "did you mean 'refresh_steps'"),
    ],
)
def test_settings_are_checked(change, match):
    with pytest.raises(ConfigError, match=match):
        ConsoleConfig.from_dict(change)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"theta": {"taste": 1.0}}, "theta names taste; the agents are quality, domain, topic"),
        ({"theta": {"quality": 1.0}}, "positive one for every agent"),
        ({"prior": {"quality": (1.0, 2.0)}}, "must be 5 finite numbers"),
        ({"prior": {"quality": (1.0, 1.0, 1.0, 1.0, 0.0)}}, "every share must be > 0"),
        ({"mode": "fixed", "memory": {"quality": (1.0,)}}, "must be 5 finite numbers"),
    ],
)
def test_settings_must_fit_the_agents(change, match):
    with pytest.raises(ConfigError, match=match):
        make_console(make_agents(), **change)


def test_settings_survive_a_dict():
    config = ConsoleConfig(mode="fixed", memory={"quality": (0.0, 1.0)}, theta={"quality": 1.0})
    assert ConsoleConfig.from_dict(config.to_dict()) == config
