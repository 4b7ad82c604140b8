# SPDX-License-Identifier: Apache-2.0
"""Agents: labels from columns, descriptions, the set on disk, memories by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.agents import (
    AgentInfo,
    AgentSet,
    DiscountedMean,
    MovingAverage,
    StateMeans,
    inline_quality,
    inline_topic,
    quality_states,
    state_means,
    stored_domain,
    stored_quality,
    stored_topic,
)
from moot.loader.errors import AgentError
from moot.triton_kernels.document_scores import NgramModel, document_scores

CELLS = np.array([[0, 0, 0], [1, 1, 2], [2, 1, 1], [2, 0, 1]], dtype=np.int32)
SHARE = np.array([0.4, 0.3, 0.2, 0.1])


class MemoryStore:
    """A bucket in a dict."""

    url = "memory://corpus"

    def __init__(self):
        self.objects = {}

    def exists(self, name):
        return name in self.objects

    def get(self, name):
        return self.objects[name]

    def put(self, name, data):
        self.objects[name] = bytes(data)


def make_model(num_heads=4):
    generator = torch.Generator().manual_seed(0)
    return NgramModel(
        table=torch.randint(-127, 128, (64, 16), generator=generator, dtype=torch.int8),
        heads=torch.randint(-900, 900, (num_heads, 16), generator=generator, dtype=torch.int16),
        bias=torch.arange(num_heads, dtype=torch.int32),
        scale=torch.full((num_heads,), 1e-4),
        orders=(1, 2),
    )


def make_agents():
    agents = (
        inline_quality(0, (-0.5, 0.5)),
        stored_domain(("code", "prose")),
        inline_topic(1, ("a", "b", "c")),
    )
    return AgentSet(agents, make_model(), CELLS, SHARE, {"seed": 3})


def test_quality_at_and_beyond_its_ends_has_a_state():
    scores = [-3.0, -0.0, 0.0, 0.999, 1.0, 2.5, 3.0, 4.0, 4.999, 5.0, 5.1, 1e30, np.inf, -np.inf]
    want = [0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 0]
    for dtype in (np.float32, np.float64):
        states = quality_states(np.array(scores, dtype=dtype))
        assert states.tolist() == want
        assert states.dtype == np.int32


def test_quality_nan_is_refused_by_row():
    with pytest.raises(AgentError, match=r"1 scores are NaN \(rows 2\)"):
        quality_states([1.0, 2.0, np.nan])
    agents = AgentSet((stored_quality(),), make_model(), np.array([[0]]), np.ones(1))
    with pytest.raises(AgentError, match="'quality', column quality.*NaN"):
        agents.stored_states({"quality": [np.nan]}, 1)


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_quality_states_are_in_range_and_ascend_with_the_score(scores):
    states = quality_states(sorted(scores))
    assert states.min() >= 0 and states.max() <= 4
    assert (np.diff(states) >= 0).all()


def test_stored_states_fill_stored_columns_and_leave_inline_ones():
    agents = make_agents()
    states = agents.stored_states({"domain": np.array([1, 0, 1], np.uint8), "other": [1]}, 3)
    assert states.tolist() == [[-1, 1, -1], [-1, 0, -1], [-1, 1, -1]]
    assert agents.columns == ("domain",)


@pytest.mark.parametrize(
    "columns, match",
    [
        ({}, "reads column 'domain', which the corpus lacks"),
        ({"domain": np.array([0, 2, 0])}, "state 2 at row 1 .* the agent has 2 states"),
        ({"domain": np.array([0, -1, 0])}, "state -1 at row 1"),
        ({"domain": np.array([0.0, 1.0, 0.0])}, "holds float64, wanted integer states"),
        ({"domain": np.array([0, 1])}, "has .* values for 3 documents"),
    ],
)
def test_stored_states_name_what_does_not_fit(columns, match):
    with pytest.raises(AgentError, match=match):
        make_agents().stored_states(columns, 3)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"kind": "guess"}, "kind 'guess' is none of"),
        ({"state_names": ("x",)}, "3 states but 1 state names"),
        ({"edges": (0.0,)}, "need 2 edges, got 1"),
        ({"edges": (1.0, 0.0)}, "ascending"),
        ({"edges": (0.0, math.nan)}, "finite"),
        ({"column": "quality"}, "names its column"),
    ],
)
def test_agent_descriptions_are_checked(change, match):
    fields = inline_quality(0, (0.0, 1.0)).to_dict() | change
    with pytest.raises(AgentError, match=match):
        AgentInfo.from_dict(fields)


def test_agent_description_survives_json():
    for agent in (*make_agents().agents, stored_quality(), stored_topic(("x", "y"))):
        assert AgentInfo.from_dict(json.loads(json.dumps(agent.to_dict()))) == agent


def test_agent_set_survives_a_bucket():
    agents, store = make_agents(), MemoryStore()
    agents.save(store)
    assert sorted(store.objects) == ["agents.json", "agents.safetensors"]
    loaded = AgentSet.load(store)
    assert loaded.agents == agents.agents
    assert loaded.meta == {"seed": 3}
    np.testing.assert_array_equal(loaded.pool_states, agents.pool_states)
    np.testing.assert_array_equal(loaded.pool_share, agents.pool_share)
    for name in ("table", "heads", "bias", "scale"):
        assert torch.equal(getattr(loaded.model, name), getattr(agents.model, name))
    assert loaded.model.orders == (1, 2)


def test_agent_set_load_says_what_is_wrong():
    store = MemoryStore()
    with pytest.raises(AgentError, match="no agents at memory://corpus.*run 'moot fit'"):
        AgentSet.load(store)
    make_agents().save(store)
    good = dict(store.objects)
    store.put("agents.safetensors", good["agents.safetensors"][:-1])
    with pytest.raises(AgentError, match="not the file its JSON describes"):
        AgentSet.load(store)
    store.objects = good | {"agents.json": b"{}"}
    with pytest.raises(AgentError, match="is not 'moot-agents-1'"):
        AgentSet.load(store)
    store.objects = good | {"agents.json": b"{"}
    with pytest.raises(AgentError, match="cannot be read"):
        AgentSet.load(store)


def test_agent_set_checks_cells_and_shares():
    agents = make_agents()
    for cells, share, match in (
        (CELLS + 2, SHARE, "not in"),
        (CELLS, SHARE * 2, "sum to 1"),
        (CELLS, np.array([1.0, 0, 0, 0]), "positive"),
        (CELLS[:, :2], SHARE, "do not fit 3 agents"),
    ):
        with pytest.raises(AgentError, match=match):
            AgentSet(agents.agents, agents.model, cells, share)
    with pytest.raises(AgentError, match="unique names"):
        AgentSet((agents.agents[0],) * 3, agents.model, CELLS, SHARE)


def test_pool_frequencies_and_cells():
    agents = make_agents()
    quality, domain, topic = agents.pool_frequencies()
    np.testing.assert_allclose(quality, [0.4, 0.3, 0.3])
    np.testing.assert_allclose(domain, [0.5, 0.5])
    np.testing.assert_allclose(topic, [0.4, 0.3, 0.3])
    assert agents.cells(CELLS).tolist() == [0, 6 + 3 + 2, 12 + 3 + 1, 12 + 1]
    every = np.stack(np.meshgrid(range(3), range(2), range(3), indexing="ij"), -1).reshape(-1, 3)
    assert agents.cells(every).tolist() == list(range(18))


def test_tables_are_what_document_scores_reads():
    agents = make_agents()
    memory = np.arange(9, dtype=np.float32).reshape(3, 3)
    tables = agents.tables(memory, [0.5, 0.25, 0.25])
    assert tables.edges.tolist() == [[-0.5, 0.5], [math.inf, math.inf], [math.inf, math.inf]]
    tokens, cuts = torch.arange(40), torch.tensor([0, 7, 7, 40])
    stored = torch.from_numpy(agents.stored_states({"domain": np.array([0, 1, 1])}, 3))
    scores = document_scores(tokens, cuts, agents.model, tables, stored, implementation="reference")
    assert scores.states[:, 1].tolist() == [0, 1, 1]
    quality = np.searchsorted([-0.5, 0.5], scores.values[:, 0].numpy(), side="right")
    assert scores.states[:, 0].tolist() == quality.tolist()
    assert scores.states[:, 2].tolist() == scores.values[:, 1:4].argmax(1).tolist()
    votes = memory[np.arange(3), scores.states.numpy()]
    np.testing.assert_array_equal(scores.votes.numpy(), votes)


def test_state_means_by_hand():
    seen = state_means(
        np.array([0, 0, 2], np.int32), np.array([1.0, 4.0, -2.0]), np.array([1.0, 3.0, 0.5]), 3
    )
    assert seen.mean == [13 / 4, 0.0, -2.0]
    assert seen.number == [16 / 10, 0.0, 1.0]


def test_moving_average_is_equation_five():
    memory = MovingAverage([1.0, 2.0], eta=0.25)
    memory.observe(StateMeans([3.0, 0.0], [4.0, 0.0]))
    assert memory.values == [0.75 * 1.0 + 0.25 * 3.0, 2.0]  # unseen: kept


def test_discounted_mean_by_hand_and_unseen_states_fade():
    memory = DiscountedMean(2, discount=0.5, shrink=10.0)
    assert memory.values() == [0.0, 0.0]
    memory.observe(StateMeans([1.0, 0.0], [10.0, 0.0]))
    assert memory.values() == [0.5, 0.0]
    memory.observe(StateMeans([-1.0, 2.0], [5.0, 30.0]))
    assert memory.values() == [0.0, 60.0 / 40.0]
    memory.observe(StateMeans([0.0, 0.0], [0.0, 0.0]))
    assert memory.values()[1] == 30.0 / 25.0


def test_store_protocol_needs_three_methods_only():
    store = MemoryStore()
    make_agents().save(store, "deep/agents.safetensors")
    view = SimpleNamespace(url=store.url, exists=store.exists, get=store.get)
    assert AgentSet.load(view, "deep/agents.safetensors").names == ("quality", "domain", "topic")
