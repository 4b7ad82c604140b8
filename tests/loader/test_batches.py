import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moot.loader._core import pack
from moot.loader.batches import BatchLayout, DeviceCopy, Kept, keep_within, make_batch

FIELDS = ("input_ids", "labels", "position_ids", "cu_seqlens")


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
    batch = make_batch(tokens, start, kept, layout, FIELDS)
    ids, labels, positions = reference_batch(tokens, start, kept, layout)
    assert batch["input_ids"].flatten().tolist() == ids
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


def test_only_the_asked_fields_are_there():
    layout = BatchLayout(slots=1, rows_per_slot=1, row_tokens=4)
    kept = Kept(np.array([0]), np.array([0]), np.array([3]))
    batch = make_batch(np.array([5, 6, 7], np.int32), np.array([0, 3]), kept, layout, ("labels",))
    assert list(batch) == ["labels"]
    assert torch.equal(batch["labels"], torch.tensor([[-100, 6, 7, -100]]))


@pytest.mark.parametrize("bad", [(-1, 0, 2), (0, 7, 2), (3, 0, 2), (0, 0, -1), (0, 0, 2**62)])
def test_pack_never_writes_outside(bad):
    outs = [np.zeros(8, np.int64) for _ in range(3)]
    place = [np.array([value], np.int64) for value in bad]
    with pytest.raises(IndexError, match="leaves its buffer"):
        pack(np.zeros(4, np.uint16), *place, 4, 0, *outs)


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
    batch, event = copy.send({"input_ids": torch.arange(4)})
    assert batch["input_ids"].is_pinned() and event is None
