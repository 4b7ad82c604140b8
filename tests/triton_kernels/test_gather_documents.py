# SPDX-License-Identifier: Apache-2.0
"""gather_documents: equal to Python lists, everywhere the same, cut or dropped, clear refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels import gather_documents, select

IMPLEMENTATIONS = ["reference", "native", "triton"]
WIDER = {
    torch.uint16: [None, torch.uint16, torch.int32, torch.int64],
    torch.int32: [None, torch.int64],
    torch.int64: [None],
}


def make_documents(seed, lengths, dtype=torch.uint16):
    """Tokens with something before the first document and behind the last one; offsets."""
    generator = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([3, *lengths], dtype=torch.int64).cumsum(0)
    high = {torch.uint16: 1 << 16, torch.int32: (1 << 31) - 1, torch.int64: (1 << 62)}[dtype]
    size = (int(cu_seqlens[-1]) + 2,)
    return torch.randint(1, high, size, generator=generator).to(dtype), cu_seqlens


def plain_pack(documents, capacity, pad, overflow):
    """Pack lists by Python: tokens, borders."""
    packed, borders, is_full = [], [0], False
    for document in documents:
        room = capacity - len(packed)
        if len(document) > room:
            document = [] if is_full or overflow == "drop" else document[:room]
            is_full = True
        packed += [] if is_full and overflow == "drop" else document
        borders.append(len(packed))
    return packed + [pad] * (capacity - len(packed)), borders


def plain_positions(borders, capacity, row_tokens):
    """Count from each border and each row's start."""
    starts = {*borders, *range(0, capacity, row_tokens)}
    positions = []
    for place in range(capacity):
        positions.append(0 if place in starts else positions[-1] + 1)
    return positions


def documents_of(tokens, cu_seqlens, row, count, stride, slot):
    """The chosen documents of a slot as lists; nothing is an empty one."""
    borders = cu_seqlens.tolist()
    chosen = []
    for entry, index in enumerate(row):
        document = index + slot * stride
        is_used = entry < count and index >= 0
        part = tokens[borders[document] : borders[document + 1]] if is_used else tokens[:0]
        chosen.append(part.to(torch.int64).tolist())
    return chosen


CASES = st.fixed_dictionaries({
    "seed": st.integers(0, 2**31),
    "lengths": st.lists(st.sampled_from([0, 1, 2, 7, 40, 300]), min_size=4, max_size=12),
    "slots": st.integers(0, 3),
    "most": st.integers(0, 9),
    "capacity": st.sampled_from([0, 1, 6, 64, 150, 2100]),
    "rows": st.sampled_from([1, 2, 3]),
    "dtype": st.sampled_from(list(WIDER)),
    "wide": st.integers(0, 3),
    "counted": st.booleans(),
    "strided": st.booleans(),
    "overflow": st.sampled_from(["cut", "drop"]),
    "pad": st.sampled_from([0, 9]),
})  # fmt: skip


def make_call(case):
    """Arguments of gather_documents for a case."""
    tokens, cu_seqlens = make_documents(case["seed"], case["lengths"], case["dtype"])
    generator = torch.Generator().manual_seed(case["seed"] + 1)
    stride = len(case["lengths"]) // max(case["slots"], 1) if case["strided"] else 0
    limit = stride or len(case["lengths"])
    shape = (case["slots"], case["most"])
    indices = torch.randint(-1, limit, shape, generator=generator).to(torch.int32)
    count = torch.randint(-1, case["most"] + 3, shape[:1], generator=generator).to(torch.int32)
    rows = case["rows"] if case["capacity"] % case["rows"] == 0 else 1
    choices = WIDER[case["dtype"]]
    options = {
        "capacity_tokens": case["capacity"], "documents_per_slot": stride, "pad": case["pad"],
        "row_tokens": case["capacity"] // rows or 1, "overflow": case["overflow"],
        "dtype": choices[case["wide"] % len(choices)], "position_ids": True,
    }  # fmt: skip
    return (tokens, cu_seqlens, indices, count if case["counted"] else None), options


def check_against_lists(case, implementation):
    (tokens, cu_seqlens, indices, count), options = make_call(case)
    packed = gather_documents(
        tokens, cu_seqlens, indices, count, **options, implementation=implementation
    )
    capacity = case["capacity"]
    assert packed.tokens.dtype == (options["dtype"] or tokens.dtype)
    assert packed.cu_seqlens.dtype == torch.int32 and packed.position_ids.dtype == torch.int64
    for slot, row in enumerate(indices.tolist()):
        limit = len(row) if count is None else int(count[slot])
        stride = options["documents_per_slot"]
        chosen = documents_of(tokens, cu_seqlens, row, limit, stride, slot)
        wanted, borders = plain_pack(chosen, capacity, case["pad"], case["overflow"])
        assert packed.tokens[slot].to(torch.int64).tolist() == wanted
        assert packed.cu_seqlens[slot].tolist() == borders
        positions = plain_positions(borders, capacity, options["row_tokens"])
        assert packed.position_ids[slot].tolist() == positions


@pytest.mark.parametrize("implementation", ["reference", "native"])
@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_slots_are_what_python_lists_give(implementation, case):
    check_against_lists(case, implementation)


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_kernel_gives_what_python_lists_give(case):
    check_against_lists(case, "triton")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_many_documents_in_many_tiles(implementation):
    """More documents than a step of the search reads, more tokens than a tile has."""
    lengths = torch.randint(0, 30, (700,), generator=torch.Generator().manual_seed(1)).tolist()
    tokens, cu_seqlens = make_documents(0, lengths)
    indices = torch.arange(700, dtype=torch.int32).flip(0)[None]
    count = torch.tensor([650], dtype=torch.int32)
    packed = gather_documents(
        tokens, cu_seqlens, indices, count, capacity_tokens=9000, implementation=implementation
    )
    chosen = documents_of(tokens, cu_seqlens, indices[0].tolist(), 650, 0, 0)
    wanted, borders = plain_pack(chosen, 9000, 0, "cut")
    assert packed.tokens[0].to(torch.int64).tolist() == wanted
    assert packed.cu_seqlens[0].tolist() == borders
    assert packed.position_ids is None


@pytest.mark.parametrize("implementation", ["native", "triton"])
def test_every_output_is_written(poisoned_empty, implementation):
    tokens, cu_seqlens = make_documents(0, [5, 0, 9], torch.int64)
    indices = torch.tensor([[2, -1, 0], [1, 1, 1]], dtype=torch.int32)
    packed = gather_documents(
        tokens, cu_seqlens, indices, capacity_tokens=40, position_ids=True,
        implementation=implementation,
    )  # fmt: skip
    for value in (packed.tokens, packed.cu_seqlens, packed.position_ids):
        assert not (value == 0x5A5A5A5A).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_neighbours_change_nothing(implementation):
    """A slot alone is the slot among others."""
    tokens, cu_seqlens = make_documents(3, [4, 9, 1, 30, 2, 11])
    indices = torch.tensor([[0, 3], [5, 2], [4, 4]], dtype=torch.int32)
    options = {"capacity_tokens": 33, "implementation": implementation}
    together = gather_documents(tokens, cu_seqlens, indices, **options)
    again = gather_documents(tokens, cu_seqlens, indices, **options)
    assert torch.equal(together.tokens.int(), again.tokens.int())
    for slot in range(3):
        alone = gather_documents(tokens, cu_seqlens, indices[slot : slot + 1], **options)
        assert torch.equal(alone.tokens[0].int(), together.tokens[slot].int())
        assert torch.equal(alone.cu_seqlens[0], together.cu_seqlens[slot])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_select_keeps_is_packed(implementation):
    """select's order and count are taken as they are: slots of C candidates each."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(0, 12, (2, 9), generator=generator).to(torch.int32)
    tokens, cu_seqlens = make_documents(6, lengths.flatten().tolist())
    votes = torch.randn(2, 9, 3, generator=generator)
    ids = torch.arange(18).view(2, 9)
    selection = select(
        votes, torch.ones(3), lengths, ids, budget_tokens=25, implementation=implementation
    )
    packed = gather_documents(
        tokens, cu_seqlens, selection.order, selection.num_kept, capacity_tokens=25,
        documents_per_slot=9, overflow="drop", implementation=implementation,
    )  # fmt: skip
    for slot in range(2):
        kept = selection.order[slot, : int(selection.num_kept[slot])].long()
        assert int(packed.cu_seqlens[slot, -1]) == int(lengths[slot, kept].sum())
        first = int(cu_seqlens[slot * 9 + int(kept[0])])
        length = int(lengths[slot, kept[0]])
        got = packed.tokens[slot, :length].int()
        assert torch.equal(got, tokens[first : first + length].int())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_op_is_registered_whole(dtype, implementation):
    tokens, cu_seqlens = make_documents(0, [3, 4, 5], dtype)
    indices = torch.tensor([[2, 0], [1, -1]], dtype=torch.int32)
    count = torch.tensor([2, 1], dtype=torch.int32)
    arguments = (tokens, cu_seqlens, indices, count, 0, 12, 6, 0, True, torch.int64, True)
    torch.library.opcheck(torch.ops.moot.gather_documents.default, (*arguments, implementation))


def test_compiled_call_is_the_eager_one():
    tokens, cu_seqlens = make_documents(0, [3, 4, 5], torch.int32)
    indices = torch.tensor([[2, 0], [1, -1]], dtype=torch.int32)

    def pack(tokens, cu_seqlens, indices):
        made = gather_documents(tokens, cu_seqlens, indices, capacity_tokens=8)
        return made.tokens + 1, made.cu_seqlens

    compiled = torch.compile(pack, backend="eager", fullgraph=True)
    for left, right in zip(
        compiled(tokens, cu_seqlens, indices), pack(tokens, cu_seqlens, indices), strict=True
    ):
        assert torch.equal(left, right)


REFUSALS = {
    "float tokens": ({"tokens": torch.zeros(20)}, "tokens are torch.float32"),
    "tokens type": ({"tokens": [1]}, "tokens are list"),
    "no borders": ({"cu_seqlens": torch.zeros(0, dtype=torch.int64)}, "cu_seqlens is empty"),
    "borders dtype": ({"cu_seqlens": torch.zeros(3, dtype=torch.int32)}, "cu_seqlens is"),
    "borders descend": ({"cu_seqlens": torch.tensor([0, 5, 3, 9])}, "must not descend"),
    "borders leave": ({"cu_seqlens": torch.tensor([0, 5, 8, 99])}, "must lie within"),
    "indices dtype": ({"indices": torch.zeros(1, 2, dtype=torch.int64)}, "indices is"),
    "index too high": ({"indices": torch.tensor([[0, 3]], dtype=torch.int32)}, r"indices\[0, 1\]"),
    "index of another slot": ({"documents_per_slot": 1}, r"indices\[0, 1\] is 2"),
    "too few documents": ({"documents_per_slot": 4}, "1 slots of 4 documents"),
    "count shape": ({"num_chosen": torch.zeros(2, dtype=torch.int32)}, "num_chosen is"),
    "negative capacity": ({"capacity_tokens": -1}, "capacity_tokens is -1"),
    "vast capacity": ({"capacity_tokens": 1 << 31}, "capacity_tokens is"),
    "uneven rows": ({"row_tokens": 7}, "must divide capacity_tokens"),
    "wide pad": ({"pad": 1 << 16}, "torch.uint16 does not hold it"),
    "narrow dtype": ({"tokens": torch.zeros(20, dtype=torch.int64), "dtype": torch.int32}, "wider"),
    "float dtype": ({"dtype": torch.float32}, "wider"),
    "overflow": ({"overflow": "wrap"}, "choose 'cut' or 'drop'"),
    "implementation": ({"implementation": "cuda"}, "choose one of"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_arguments_are_refused(name):
    changes, message = REFUSALS[name]
    good = {
        "tokens": torch.zeros(20, dtype=torch.uint16),
        "cu_seqlens": torch.tensor([0, 5, 8, 12]),
        "indices": torch.tensor([[0, 2]], dtype=torch.int32),
        "capacity_tokens": 10,
    }
    with pytest.raises(ValueError, match=message):
        gather_documents(**(good | changes))


def test_what_lies_behind_the_count_is_not_looked_at():
    tokens = torch.arange(20, dtype=torch.int32)
    indices = torch.tensor([[1, 99]], dtype=torch.int32)
    for implementation in ("native", "triton"):
        packed = gather_documents(
            tokens, torch.tensor([0, 5, 8]), indices, torch.tensor([1], dtype=torch.int32),
            capacity_tokens=4, implementation=implementation,
        )  # fmt: skip
        assert packed.tokens.tolist() == [[5, 6, 7, 0]]
