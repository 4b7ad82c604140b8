import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moot.loader import ShardError, _core
from moot.loader._core import Elements
from moot.loader.batches import (
    FIELDS,
    BatchLayout,
    DeviceCopy,
    Kept,
    Placement,
    keep_within,
    make_batch,
)


def elements(tokens, start):
    begin = np.asarray(start[:-1], np.int64) * tokens.itemsize
    count = np.diff(start).astype(np.uint32)
    return Elements(tokens.view(np.uint8), begin, count, tokens.dtype.name, "here")


def pack(tokens, start, kept, layout, fields, offset=None):
    """Pack the first tokens of the kept candidates; memory comes filled with rubbish."""
    zeros = np.zeros(len(kept.candidate), np.int64) if offset is None else offset
    table, row = np.zeros(len(zeros), np.int32), np.asarray(kept.candidate, np.int32)
    pieces = Placement(table, row, zeros, kept.length, kept.target)

    def poisoned(shape, dtype):
        flat = np.full(shape[0] * shape[1], np.iinfo(dtype).max, dtype)
        return torch.from_numpy(flat.reshape(shape)), flat

    tables = [elements(tokens, start)]
    return make_batch(tables, pieces, layout, fields, poisoned, tokens.dtype)


def reference_batch(tokens, start, kept, layout):
    """One token at a time, in plain Python."""
    size, width = layout.rows * layout.row_tokens, layout.row_tokens
    ids, labels, positions = [0] * size, [-100] * size, [None] * size
    for candidate, target, length in zip(kept.candidate, kept.target, kept.length, strict=True):
        position = 0
        for i in range(length):
            place = target + i
            position = 0 if place % width == 0 else position
            ids[place] = int(tokens[start[candidate] + i])
            labels[place] = ids[place] if position else -100
            positions[place] = position
            position += 1
    for place in range(size):
        if positions[place] is None:
            fresh = place % width == 0 or ids_end(kept, place)
            positions[place] = 0 if fresh else positions[place - 1] + 1
    return ids, labels, positions


def ids_end(kept, place):
    return any(place == t + n for t, n in zip(kept.target, kept.length, strict=True))


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(2, 17))
def test_batch_equals_its_reference(seed, slots, rows, width):
    rng = np.random.default_rng(seed)
    layout = BatchLayout(slots=slots, rows_per_slot=rows, row_tokens=width)
    lengths = rng.integers(1, 2 * width, size=int(rng.integers(1, 14)))
    start = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(1, 60_000, size=int(start[-1])).astype(np.uint16)
    owner = np.sort(rng.integers(0, slots, len(lengths)))
    chosen = [rng.permutation(np.flatnonzero(owner == slot)) for slot in range(slots)]
    kept = keep_within(chosen, lengths, layout)
    batch = pack(tokens, start, kept, layout, FIELDS)
    ids, labels, positions = reference_batch(tokens, start, kept, layout)
    assert batch["input_ids"].flatten().tolist() == ids
    assert batch["tokens"].dtype == torch.uint16 and batch["tokens"].flatten().tolist() == ids
    assert batch["labels"].flatten().tolist() == labels
    assert batch["position_ids"].flatten().tolist() == positions
    borders = batch["cu_seqlens"].tolist()
    assert borders[0] == 0 and borders[-1] == len(ids)
    assert borders[:-1] == [i for i, p in enumerate(positions) if p == 0]


def test_a_slot_keeps_to_its_budget_and_cuts_the_last_piece():
    layout = BatchLayout(slots=2, rows_per_slot=2, row_tokens=10)
    chosen = [np.array([0, 1, 2]), np.array([3, 4])]
    kept = keep_within(chosen, np.array([8, 8, 8, 5, 5]), layout)
    assert kept.candidate.tolist() == [0, 1, 2, 3, 4]
    assert kept.length.tolist() == [8, 8, 4, 5, 5]
    assert kept.target.tolist() == [0, 8, 16, 20, 25]


def kept_of(candidate, target, length):
    return Kept(*(np.array(part, np.int64) for part in (candidate, target, length)))


def test_only_the_asked_fields_are_there():
    layout = BatchLayout(slots=1, rows_per_slot=1, row_tokens=4)
    kept = kept_of([0], [0], [3])
    batch = pack(np.array([5, 6, 7], np.int32), np.array([0, 3]), kept, layout, ("labels",))
    assert list(batch) == ["labels"]
    assert torch.equal(batch["labels"], torch.tensor([[-100, 6, 7, -100]]))


@pytest.mark.parametrize(
    "pieces",
    [([0], [-1], [2]), ([0], [7], [2]), ([0, 0], [0, 1], [2, 2]), ([0, 0], [4, 0], [2, 2])],
    ids=["before", "behind", "overlap", "descending"],
)
def test_pack_never_writes_outside_or_twice(pieces):
    layout = BatchLayout(slots=1, rows_per_slot=2, row_tokens=4)
    with pytest.raises(IndexError, match="overlaps the one before it or leaves the rows"):
        pack(np.zeros(4, np.uint16), np.array([0, 4]), kept_of(*pieces), layout, FIELDS)


@pytest.mark.parametrize("piece", [(0, 5), (3, 2), (0, -1), (-1, 2), (0, 2**62), (2**62, 1)])
def test_pack_never_reads_outside(piece):
    layout = BatchLayout(slots=1, rows_per_slot=2, row_tokens=4)
    offset, length = np.array([piece[0]]), piece[1]
    kept = kept_of([0], [0], [length])
    with pytest.raises(ShardError, match="here, sample 0"):
        pack(np.zeros(4, np.uint16), np.array([0, 4]), kept, layout, ("tokens",), offset)


def test_elements_that_leave_their_buffer_are_refused():
    with pytest.raises(_core.ShardFault, match="here, sample 1"):
        elements(np.zeros(4, np.uint16), np.array([0, 4, 6]))


def test_a_batch_that_stays_on_the_cpu_is_handed_over_as_it_is():
    copy = DeviceCopy("cpu", pin=False)
    batch = {"input_ids": torch.arange(6).view(2, 3)}
    assert copy.receive(*copy.send(batch))["input_ids"] is batch["input_ids"]


@pytest.mark.gpu
def test_a_batch_crosses_to_the_device_on_a_stream_of_its_own():
    copy = DeviceCopy("cuda")
    batches = [{"input_ids": torch.randint(0, 9, (64, 512))} for _ in range(20)]
    sent = [copy.send(batch) for batch in batches]
    for batch, (moved, event) in zip(batches, sent, strict=True):
        there = copy.receive(moved, event)["input_ids"]
        assert there.is_cuda and torch.equal((there * 2).cpu(), batch["input_ids"] * 2)


@pytest.mark.gpu
def test_batches_that_stay_on_the_cpu_are_pinned_where_cuda_is():
    copy = DeviceCopy("cpu")
    tensor, _ = copy.empty((1, 4), np.dtype(np.uint16))
    batch, event = copy.send({"tokens": tensor})
    assert batch["tokens"].is_pinned() and event is None
