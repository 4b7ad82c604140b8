import numpy as np
import pytest
import torch
from corpora import random_lengths, small_agents, write_corpus
from hypothesis import given
from hypothesis import strategies as st
from moot.loader import ConsoleConfig, Loader, ShardError, _core, steps
from moot.loader._core import Elements
from moot.loader.batches import (
    FIELDS,
    BatchLayout,
    DeviceCopy,
    Kept,
    Placement,
    expand,
    keep_within,
    make_batch,
    make_narrow,
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
    chosen = np.lexsort((rng.random(len(owner)), owner))
    kept = keep_within(chosen, owner[chosen], lengths, layout)
    batch = pack(tokens, start, kept, layout, FIELDS)
    ids, labels, positions = reference_batch(tokens, start, kept, layout)
    assert batch["input_ids"].flatten().tolist() == ids
    assert batch["tokens"].dtype == torch.uint16 and batch["tokens"].flatten().tolist() == ids
    assert batch["labels"].flatten().tolist() == labels
    assert batch["position_ids"].flatten().tolist() == positions
    borders = batch["cu_seqlens"].tolist()
    assert borders[0] == 0 and borders[-1] == len(ids)
    assert borders[:-1] == [i for i, p in enumerate(positions) if p == 0]


def poisoned(shape, dtype):
    flat = np.full(shape[0] * shape[1], np.iinfo(dtype).max, dtype)
    return torch.from_numpy(flat.reshape(shape)), flat


@given(
    st.integers(0, 10**6),
    st.sampled_from([np.uint8, np.uint16, np.int32, np.uint32, np.int64]),
    st.integers(1, 5),
    st.integers(2, 17),
)
def test_what_is_made_behind_a_copy_equals_what_is_packed(seed, dtype, rows, width):
    """Pieces of any length, none too, with and without gaps between them."""
    rng = np.random.default_rng(seed)
    layout = BatchLayout(slots=1, rows_per_slot=rows, row_tokens=width)
    marks = np.sort(rng.integers(0, layout.tokens + 1, 2 * int(rng.integers(0, 6))))
    target, length = marks[::2], np.diff(marks)[::2]
    start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    tokens = rng.integers(0, np.iinfo(dtype).max, int(start[-1]), endpoint=True, dtype=dtype)
    kept = Kept(np.arange(len(target)), target, length)
    packed = pack(tokens, start, kept, layout, FIELDS)
    row = np.arange(len(target), dtype=np.int32)
    pieces = Placement(np.zeros_like(row), row, np.zeros(len(row), np.int64), length, target)
    narrow = make_narrow([elements(tokens, start)], pieces, layout, poisoned, tokens.dtype)
    made = expand(narrow["tokens"], narrow["segments"], FIELDS)
    assert set(made) == set(packed)
    for name, tensor in made.items():
        assert tensor.dtype == packed[name].dtype and tensor.is_contiguous()
        assert tensor.shape == packed[name].shape and tensor.tolist() == packed[name].tolist()
    assert list(expand(narrow["tokens"], narrow["segments"], ("labels",))) == ["labels"]


@pytest.mark.parametrize("packing", ["contiguous", "best_fit", "pad", "console"])
def test_a_loader_hands_over_equal_batches_if_they_are_made_behind_the_copy(
    tmp_path, monkeypatch, packing
):
    settings = {"batch_rows": 8, "seq_len": 48, "fields": FIELDS}
    if packing == "console":
        console = ConsoleConfig(refresh_steps=4, policy_lag=2)
        settings |= {"console": console, "agents": small_agents(), "deterministic": False}
    else:
        settings["packing"] = packing
    path = write_corpus(tmp_path / "corpus", random_lengths(100))

    def read():
        with Loader(path, **settings) as loader:
            return [batch for _, batch in zip(range(12), loader, strict=False)]

    packed = read()
    monkeypatch.setattr(DeviceCopy, "crosses", True)
    monkeypatch.setattr(steps, "make_batch", None)
    for batch, other in zip(packed, read(), strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in FIELDS)


def test_a_slot_keeps_to_its_budget_and_cuts_the_last_piece():
    layout = BatchLayout(slots=2, rows_per_slot=2, row_tokens=10)
    slot = np.array([0, 0, 0, 1, 1])
    kept = keep_within(np.arange(5), slot, np.array([8, 8, 8, 5, 5]), layout)
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
def test_the_wide_fields_are_made_on_the_device_behind_the_copy():
    copy, layout = DeviceCopy("cuda"), BatchLayout(slots=1, rows_per_slot=64, row_tokens=512)
    tokens = np.random.default_rng(0).integers(0, 1 << 16, layout.tokens, dtype=np.uint16)
    for num in range(1, 20):
        start = np.linspace(0, layout.tokens - num, num + 1).astype(np.int64)
        kept = Kept(np.arange(num), start[:-1], np.diff(start))
        packed = pack(tokens, start, kept, layout, FIELDS)
        row = np.arange(num, dtype=np.int32)
        pieces = Placement(
            np.zeros_like(row), row, np.zeros(num, np.int64), kept.length, start[:-1]
        )
        narrow = make_narrow([elements(tokens, start)], pieces, layout, copy.empty, tokens.dtype)
        sent = copy.send(narrow, lambda there: expand(**there, fields=FIELDS))
        there = copy.receive(*sent)
        assert all(tensor.is_cuda for tensor in there.values())
        assert all(there[name].cpu().tolist() == packed[name].tolist() for name in FIELDS)


@pytest.mark.gpu
def test_batches_that_stay_on_the_cpu_are_pinned_where_cuda_is():
    copy = DeviceCopy("cpu")
    tensor, _ = copy.empty((1, 4), np.dtype(np.uint16))
    batch, event = copy.send({"tokens": tensor})
    assert batch["tokens"].is_pinned() and event is None
