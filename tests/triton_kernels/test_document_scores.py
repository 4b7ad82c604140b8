# SPDX-License-Identifier: Apache-2.0
"""document_scores: values against fp64, the same bits everywhere, independence, clear refusals."""

import dataclasses
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels import AgentTables, NgramModel, document_scores

ORDERS = [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
DTYPES = [torch.uint16, torch.int32, torch.int64]


def make_model(generator, buckets=64, dim=32, heads=5, orders=(1, 2, 3)):
    def integers(low, high, *shape, dtype):
        return torch.randint(low, high, shape, generator=generator).to(dtype)

    return NgramModel(
        table=integers(-128, 128, buckets, dim, dtype=torch.int8),
        heads=integers(-(2**15), 2**15, heads, dim, dtype=torch.int16),
        bias=integers(-(10**5), 10**5, heads, dtype=torch.int32),
        scale=torch.rand(heads, generator=generator) * 1e-6 + 1e-9,
        orders=orders,
    )


def make_agents(generator, heads=5, states=4):
    """One agent of each kind; the third reads every head."""
    edges = torch.full((3, max(states, heads) - 1), math.inf)
    edges[1, :2] = torch.tensor([-0.3, 0.2])
    return AgentTables(
        kind=torch.tensor([0, 1, 2], dtype=torch.int32),
        first_head=torch.tensor([0, heads - 1, 0], dtype=torch.int32),
        num_states=torch.tensor([states, 3, heads], dtype=torch.int32),
        edges=edges,
        memory=torch.randn(3, max(states, heads), generator=generator),
        theta=torch.rand(3, generator=generator),
    )


def make_batch(generator, lengths, dtype=torch.uint16, states=4, vocabulary=50):
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    tokens = torch.randint(0, vocabulary, (int(cu_seqlens[-1]),), generator=generator).to(dtype)
    stored = torch.randint(0, states, (len(lengths), 3), generator=generator).to(torch.int32)
    return tokens, cu_seqlens, stored


def assert_same_bits(left, right):
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.dtype == b.dtype and a.shape == b.shape, field.name
        assert torch.equal(a.view(torch.int32), b.view(torch.int32)), field.name


def plain_bucket(ngram, num_buckets):
    """The hash of the specification in Python integers, written apart from the package."""
    state = 0x6D6F6F74
    for token in ngram:
        state = (state ^ token) * 0x9E3779B1 % 2**32
        state ^= state >> 15
    state = (state ^ state >> 16) * 0x85EBCA6B % 2**32
    state = (state ^ state >> 13) * 0xC2B2AE35 % 2**32
    return (state ^ state >> 16) % num_buckets


def plain_rows(document, model):
    """Table rows of a document's n-grams, as a list of buckets."""
    return [
        plain_bucket(document[start : start + order], len(model.table))
        for order in model.orders
        for start in range(len(document) - order + 1)
    ]


def dequantised_values(document, model, dtype):
    """Mean of dequantised rows times dequantised heads, plus the bias, all in one precision."""
    heads = model.heads.to(dtype) * model.scale.to(dtype)[:, None]
    offset = model.bias.to(dtype) * model.scale.to(dtype)
    rows = model.table[plain_rows(document, model)].to(dtype)
    return offset + heads @ rows.mean(0) if len(rows) else offset


@pytest.mark.parametrize("implementation", ["reference", "native", "triton"])
@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_values_are_close_to_fp64(implementation, orders):
    generator = torch.Generator().manual_seed(7)
    model = make_model(generator, orders=orders)
    tokens, cu, stored = make_batch(generator, [0, 1, 2, 3, 63, 130])
    agents = make_agents(generator)
    scores = document_scores(tokens, cu, model, agents, stored, implementation=implementation)
    for i, row in enumerate(scores.values):
        document = tokens[cu[i] : cu[i + 1]].tolist()
        exact = dequantised_values(document, model, torch.float64)
        naive = dequantised_values(document, model, torch.float32)
        ulp = exact.abs().max() * 2.0**-23
        assert (row - exact).abs().max() <= 2 * (naive - exact).abs().max() + 4 * ulp


def test_states_votes_and_total_follow_their_definitions():
    generator = torch.Generator().manual_seed(3)
    model, agents = make_model(generator), make_agents(generator)
    tokens, cu, stored = make_batch(generator, [5, 40, 0, 1, 100] * 8)
    scores = document_scores(tokens, cu, model, agents, stored)
    for i, value in enumerate(scores.values.numpy()):
        edges = agents.edges[1].numpy()
        states = [int(stored[i, 0]), int((edges <= value[4]).sum()), int(np.argmax(value))]
        votes = [agents.memory.numpy()[a, state] for a, state in enumerate(states)]
        total = np.float32(0)
        for theta, vote in zip(agents.theta.numpy(), votes, strict=True):
            total = np.float32(total + np.float32(theta * vote))
        assert scores.states[i].tolist() == states
        assert scores.votes[i].tolist() == [float(vote) for vote in votes]
        assert scores.total[i].item() == float(total)
    assert all(len(set(scores.states[:, agent].tolist())) > 1 for agent in (1, 2))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.sampled_from([0, 1, 2, 3, 7, 63, 64, 65, 127, 129, 200]), max_size=8),
    dtype=st.sampled_from(DTYPES),
    orders=st.sampled_from(ORDERS),
    shape=st.tuples(
        st.sampled_from([1, 2, 64, 1024]), st.sampled_from([16, 48, 64, 80, 144]),
        st.sampled_from([1, 5, 17, 33]),
    ),
)  # fmt: skip
def test_native_equals_reference_bit_for_bit(seed, lengths, dtype, orders, shape):
    generator = torch.Generator().manual_seed(seed)
    buckets, dim, heads = shape
    model = make_model(generator, buckets, dim, heads, orders)
    agents = make_agents(generator, heads)
    tokens, cu, stored = make_batch(generator, lengths, dtype, vocabulary=2**16)
    arguments = (tokens, cu, model, agents, stored)
    assert_same_bits(
        document_scores(*arguments, implementation="reference"), document_scores(*arguments)
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.sampled_from([0, 1, 2, 3, 63, 64, 65, 130]), max_size=4),
    dtype=st.sampled_from(DTYPES),
    orders=st.sampled_from(ORDERS),
    shape=st.tuples(
        st.sampled_from([1, 64]), st.sampled_from([16, 48, 80]), st.sampled_from([1, 17])
    ),
)
def test_kernel_equals_reference_bit_for_bit(seed, lengths, dtype, orders, shape):
    generator = torch.Generator().manual_seed(seed)
    buckets, dim, heads = shape
    model = make_model(generator, buckets, dim, heads, orders)
    agents = make_agents(generator, heads)
    tokens, cu, stored = make_batch(generator, lengths, dtype, vocabulary=2**16)
    arguments = (tokens, cu, model, agents, stored)
    assert_same_bits(
        document_scores(*arguments, implementation="reference"),
        document_scores(*arguments, implementation="triton"),
    )


@pytest.mark.parametrize("implementation", ["native", "triton"])
def test_every_output_is_written(poisoned_empty, implementation):
    generator = torch.Generator().manual_seed(1)
    model, agents = make_model(generator), make_agents(generator)
    tokens, cu, stored = make_batch(generator, [0, 1, 2, 65, 0])
    scores = document_scores(tokens, cu, model, agents, stored, implementation=implementation)
    for name in ("values", "votes", "total"):
        assert torch.isfinite(getattr(scores, name)).all(), name
    assert int(scores.states.max()) < 5 and int(scores.states.min()) >= 0


@pytest.mark.parametrize("implementation", ["reference", "native", "triton"])
def test_score_does_not_depend_on_neighbours_or_order(implementation):
    generator = torch.Generator().manual_seed(2)
    model, agents = make_model(generator), make_agents(generator)
    lengths = [3, 0, 70, 1, 12]
    tokens, cu, stored = make_batch(generator, lengths)
    together = document_scores(tokens, cu, model, agents, stored, implementation=implementation)
    documents = [tokens[cu[i] : cu[i + 1]].clone() for i in range(len(lengths))]
    order = [4, 2, 0, 3, 1]
    shuffled = torch.cat([documents[i] for i in order])
    shuffled_cu = torch.tensor([0, *(lengths[i] for i in order)]).cumsum(0)
    again = document_scores(
        shuffled, shuffled_cu, model, agents, stored[order], implementation=implementation
    )
    for i, place in enumerate(order):
        alone = document_scores(
            documents[place], torch.tensor([0, lengths[place]]), model, agents,
            stored[place : place + 1], implementation=implementation,
        )  # fmt: skip
        for name in ("values", "states", "votes", "total"):
            wanted = getattr(together, name)[place]
            assert torch.equal(getattr(again, name)[i], wanted)
            assert torch.equal(getattr(alone, name)[0], wanted)


def test_slices_of_offsets_split_the_work_over_threads():
    generator = torch.Generator().manual_seed(5)
    model, agents = make_model(generator), make_agents(generator)
    tokens, cu, stored = make_batch(generator, [i % 37 for i in range(200)])
    whole = document_scores(tokens, cu, model, agents, stored)

    def part(start):
        stop = start + 25
        return document_scores(tokens, cu[start : stop + 1], model, agents, stored[start:stop])

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(part, range(0, 200, 25)))
    for name in ("values", "states", "votes", "total"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))


def test_long_document_does_not_overflow():
    """5 million tokens leave the native routine's int16 and int32 sums far behind."""
    length, dim = 5_000_000, 16
    model = NgramModel(
        table=torch.full((8, dim), -128, dtype=torch.int8),
        heads=torch.full((1, dim), -(2**15), dtype=torch.int16),
        bias=torch.tensor([2**31 - 1], dtype=torch.int32),
        scale=torch.tensor([1e-6]),
        orders=(1, 2, 3),
    )
    none = torch.zeros(0, dtype=torch.int32)
    agents = AgentTables(none, none, none, torch.zeros(0, 0), torch.zeros(0, 1), torch.zeros(0))
    tokens = torch.arange(length, dtype=torch.int32)
    scores = document_scores(tokens, torch.tensor([0, length]), model, agents)
    count = 3 * length - 3
    total = np.int64(count * (dim * 128 * 2**15 + 2**31 - 1))
    wanted = total.astype(np.float32) * np.float32(1e-6) / np.float32(count)
    assert scores.values[0, 0].item() == float(wanted)
    assert scores.total.tolist() == [0.0]


def test_argmax_takes_the_first_on_a_tie():
    generator = torch.Generator().manual_seed(0)
    model = dataclasses.replace(
        make_model(generator, heads=5),
        heads=torch.zeros(5, 32, dtype=torch.int16),
        bias=torch.tensor([1, 7, 3, 7, 7], dtype=torch.int32),
        scale=torch.ones(5),
    )
    tokens, cu, stored = make_batch(generator, [0, 9])
    for implementation in ("reference", "native", "triton"):
        scores = document_scores(
            tokens, cu, model, make_agents(generator), stored, implementation=implementation
        )
        assert scores.states[:, 2].tolist() == [1, 1]


def broken(**changes):
    """Arguments of a good call with some of them replaced."""
    generator = torch.Generator().manual_seed(0)
    tokens, cu, stored = make_batch(generator, [3, 4])
    good = {
        "tokens": tokens, "cu_seqlens": cu, "model": make_model(generator),
        "agents": make_agents(generator), "stored_states": stored,
    }  # fmt: skip
    return good | changes


REFUSALS = {
    "float tokens": ({"tokens": torch.zeros(7)}, "tokens are torch.float32"),
    "matrix of tokens": ({"tokens": torch.zeros(7, 1, dtype=torch.int32)}, r"tokens .*\[any\]"),
    "int32 offsets": ({"cu_seqlens": torch.tensor([0, 7], dtype=torch.int32)}, "cu_seqlens is"),
    "no offsets": ({"cu_seqlens": torch.zeros(0, dtype=torch.int64)}, "cu_seqlens is empty"),
    "descending": ({"cu_seqlens": torch.tensor([0, 5, 4])}, "cu_seqlens must not descend"),
    "past the end": ({"cu_seqlens": torch.tensor([0, 5, 8])}, r"within \[0, 7\]"),
    "before the start": ({"cu_seqlens": torch.tensor([-1, 5, 7])}, "from -1"),
    "stored missing": ({"stored_states": None}, "pass stored_states"),
    "stored shape": ({"stored_states": torch.zeros(1, 3, dtype=torch.int32)}, "stored_states is"),
    "stored range": (
        {"stored_states": torch.full((2, 3), 4, dtype=torch.int32)},
        r"stored_states\[0, 0\] is 4",
    ),
    "unknown implementation": ({"implementation": "fast"}, "choose one of"),
}


@pytest.mark.parametrize("implementation", ["reference", "native", "triton"])
@pytest.mark.parametrize("name", REFUSALS)
def test_bad_arguments_are_refused(name, implementation):
    changes, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        document_scores(**(broken(implementation=implementation) | changes))


@pytest.mark.parametrize("implementation", ["reference", "native", "triton"])
def test_agent_reading_missing_heads_is_refused(implementation):
    arguments = broken(implementation=implementation)
    first = torch.tensor([0, 5, 0], dtype=torch.int32)
    arguments["agents"] = dataclasses.replace(arguments["agents"], first_head=first)
    with pytest.raises(ValueError, match=r"agent 1 reads heads \[5, 6\); the model has 5"):
        document_scores(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": torch.zeros(3, 32, dtype=torch.int8)}, "power of two"),
        ({"table": torch.zeros(4, 24, dtype=torch.int8)}, "multiple of 16"),
        ({"table": torch.zeros(4, 32)}, "table is torch.float32"),
        ({"heads": torch.zeros(5, 16, dtype=torch.int16)}, "heads is"),
        ({"bias": torch.zeros(4, dtype=torch.int32)}, "bias is"),
        ({"scale": torch.full((5,), math.nan)}, "scale holds"),
        ({"orders": (2, 1)}, "orders is"),
        ({"orders": (4,)}, "orders is"),
        ({"orders": ()}, "orders is"),
    ],
)
def test_bad_models_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_model(torch.Generator()), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": torch.tensor([0, 1, 3], dtype=torch.int32)}, "kind is"),
        ({"num_states": torch.tensor([0, 1, 1], dtype=torch.int32)}, "num_states is"),
        ({"num_states": torch.tensor([6, 1, 1], dtype=torch.int32)}, "num_states is"),
        ({"edges": torch.tensor([[1.0, 0.0, 2.0, 3.0]] * 3)}, "edges are not ascending"),
        ({"edges": torch.full((3, 4), math.nan)}, "edges are not ascending"),
        ({"edges": torch.zeros(3, 5)}, "edges is"),
        ({"theta": torch.zeros(2)}, "theta is"),
        ({"memory": torch.zeros(3, 5, dtype=torch.float64)}, "memory is"),
    ],
)
def test_bad_agents_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_agents(torch.Generator()), **change)


def test_native_core_refuses_lies_of_its_own():
    """The core guards memory even where the Python checks are passed by."""
    from moot.triton_kernels.document_scores.native import document_scores_native

    arguments = broken()
    arguments["cu_seqlens"] = torch.tensor([0, 5, 1 << 40])
    with pytest.raises(ValueError, match="cu_seqlens leaves the tokens"):
        document_scores_native(**arguments)
    arguments = broken(stored_states=torch.full((2, 3), -1, dtype=torch.int32))
    with pytest.raises(ValueError, match="not a state of the agent"):
        document_scores_native(**arguments)


def test_kernel_refuses_too_many_heads():
    model = make_model(torch.Generator(), dim=16, heads=129)
    with pytest.raises(ValueError, match="the kernel serves 128"):
        document_scores(**broken(model=model, implementation="triton"))


def test_import_loads_neither_triton_nor_the_native_module():
    code = (
        "import sys, moot.triton_kernels; "
        "print([n for n in ('triton', 'moot.triton_kernels._native') if n in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert found.stdout.strip() == "[]"


def test_kernel_on_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1"):
        document_scores(**broken(implementation="triton"))


@pytest.mark.parametrize("implementation", ["reference", "native", "triton"])
def test_op_is_registered_whole(implementation):
    generator = torch.Generator().manual_seed(9)
    model, agents = make_model(generator), make_agents(generator)
    tokens, cu, stored = make_batch(generator, [3, 0, 65, 1])
    flat = (
        tokens, cu, model.table, model.heads, model.bias, model.scale, model.orders, agents.kind,
        agents.first_head, agents.num_states, agents.edges, agents.memory, agents.theta, stored,
        implementation,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.moot.document_scores.default, flat)


def test_compiled_call_is_the_eager_one():
    generator = torch.Generator().manual_seed(9)
    model, agents = make_model(generator), make_agents(generator)
    batch = make_batch(generator, [3, 0, 65, 1])

    def total(tokens, cu, stored):
        return document_scores(tokens, cu, model, agents, stored).total * 2

    compiled = torch.compile(total, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*batch), total(*batch))
