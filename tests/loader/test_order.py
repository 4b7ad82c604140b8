import numpy as np
import pytest
from corpora import random_lengths
from hypothesis import given
from hypothesis import strategies as st
from moot.loader import ConfigError, StateError
from moot.loader._core import mix64, permute
from moot.loader.order import Cursor, Order, SlotLayout, default_num_slots


def reference_permute(index, n, key):
    """The construction of csrc/permute.h in plain integers."""
    if n <= 1:
        return 0
    half = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(6):
            word = right ^ mix64((key + turn) & 0xFFFFFFFFFFFFFFFF)
            left, right = right, left ^ (mix64(word) & mask)
        index = (left << half) | right
        if index < n:
            return index


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_and_equals_its_reference(n, key):
    images = np.arange(n)
    permute(images, n, key)
    assert sorted(images.tolist()) == list(range(n))
    for index in {0, n // 2, n - 1}:
        assert images[index] == reference_permute(index, n, key)


def test_permute_needs_no_array_as_long_as_the_corpus():
    far = np.array([0, 10**10 - 1], dtype=np.int64)
    permute(far, 10**10, 7)
    assert ((far >= 0) & (far < 10**10)).all() and far[0] != far[1]


def test_permute_refuses_indices_outside():
    with pytest.raises(IndexError):
        permute(np.array([5]), 5, 0)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0),
    st.integers(1, 5),
    st.integers(0, 99),
    st.booleans(),
)
def test_an_epoch_holds_every_sample_once(sizes, window_shards, seed, shuffle):
    order = Order(np.array(sizes), seed=seed, window_shards=window_shards, shuffle=shuffle)
    everything = {(s, r) for s, size in enumerate(sizes) for r in range(size)}
    for epoch in (0, 1, 7):
        positions = np.arange(order.num_samples) + epoch * order.num_samples
        shards, rows = order.locate(positions)
        pairs = list(zip(shards.tolist(), rows.tolist(), strict=True))
        assert len(pairs) == len(everything) and set(pairs) == everything


def test_order_differs_by_epoch_and_seed_and_is_found_at_random():
    order = Order(np.full(20, 50), seed=3, window_shards=4)
    positions = np.arange(3000)
    shards, rows = order.locate(positions)
    first, second = shards[:1000] * 50 + rows[:1000], shards[1000:2000] * 50 + rows[1000:2000]
    assert not np.array_equal(first, second)
    other = Order(np.full(20, 50), seed=4, window_shards=4).locate(positions)
    assert not np.array_equal(shards, other[0])
    some = np.array([2999, 0, 1234, 77])
    again = Order(np.full(20, 50), seed=3, window_shards=4).locate(some)
    assert np.array_equal(again[0], shards[some]) and np.array_equal(again[1], rows[some])


def test_shards_from_covers_what_is_read_next():
    sizes = np.array([30, 10, 20, 40, 5, 25, 35])
    order = Order(sizes, seed=1, window_shards=3)
    for start in (0, 50, 120, 164, 300):
        shards, _ = order.locate(np.arange(start, start + 40))
        assert set(shards.tolist()) <= set(order.shards_from(start, 7))


def fixed_lengths(lengths):
    return lambda positions: lengths[positions % len(lengths)].astype(np.int64)


@given(st.integers(0, 10), st.integers(1, 4), st.integers(1, 5), st.integers(2, 60))
def test_filling_loses_and_repeats_no_token(seed, num_slots, rows, row_tokens):
    lengths = random_lengths(500, seed)
    layout = SlotLayout(num_slots=num_slots, rows_per_slot=rows, row_tokens=row_tokens, lanes=rows)
    cursor = Cursor(layout, fixed_lengths(lengths))
    read = {}
    for _ in range(6):
        pieces = cursor.advance()
        for slot in range(num_slots):
            assert pieces.length[pieces.slot == slot].sum() == rows * row_tokens
        for position, offset, length in zip(
            pieces.position, pieces.offset, pieces.length, strict=True
        ):
            assert read.get(position, 0) == offset
            read[position] = offset + length
    for position, stop in read.items():
        assert stop <= lengths[position % 500]


@given(st.integers(0, 10), st.integers(1, 6))
def test_offering_takes_a_fixed_number_and_skips_empty_documents(seed, lanes):
    lengths = random_lengths(300, seed)
    lengths[::7] = 0
    layout = SlotLayout(num_slots=2, rows_per_slot=4, row_tokens=64, lanes=lanes, num_candidates=12)
    cursor = Cursor(layout, fixed_lengths(lengths))
    read, owner = {}, {}
    for _ in range(8):
        pieces = cursor.advance()
        assert np.bincount(pieces.slot).tolist() == [12, 12]
        assert (pieces.length > 0).all() and (pieces.length <= 64).all()
        for position, offset, length in zip(
            pieces.position, pieces.offset, pieces.length, strict=True
        ):
            slots = pieces.slot[pieces.position == position]
            assert (slots == owner.setdefault(position, slots[0])).all(), "one slot a document"
            assert read.get(position, 0) == offset
            read[position] = offset + length
            assert length == 64 or read[position] == lengths[position % 300]


def test_a_loaded_cursor_goes_on_equally():
    layout = SlotLayout(num_slots=3, rows_per_slot=4, row_tokens=50, lanes=4, num_candidates=20)
    lengths = fixed_lengths(random_lengths(400))
    cursor = Cursor(layout, lengths)
    for _ in range(5):
        cursor.advance()
    other = Cursor(layout, lengths)
    other.load(cursor.table.copy())
    ours, theirs = cursor.advance(), other.advance()
    assert all(np.array_equal(getattr(ours, n), getattr(theirs, n)) for n in vars(ours))


def test_cursor_refuses_a_table_of_another_shape():
    layout = SlotLayout(num_slots=3, rows_per_slot=4, row_tokens=50, lanes=4)
    with pytest.raises(StateError, match="num_slots"):
        Cursor(layout, fixed_lengths(random_lengths(10))).load(np.zeros((9, 2), np.int64))


def test_a_corpus_without_tokens_is_an_error_not_a_hang():
    layout = SlotLayout(num_slots=1, rows_per_slot=1, row_tokens=8, lanes=1)
    with pytest.raises(StateError, match="hold no token"):
        Cursor(layout, fixed_lengths(np.zeros(5))).advance()


def test_default_slots_leave_four_rows():
    assert [default_num_slots(rows) for rows in (1, 4, 8, 16, 48, 256, 512)] == [
        1,
        1,
        2,
        4,
        8,
        64,
        64,
    ]
    with pytest.raises(ConfigError):
        SlotLayout(num_slots=0, rows_per_slot=1, row_tokens=1, lanes=1)


def test_slots_read_the_same_part_of_the_order_however_long_documents_are():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4, 1.5, 5000).astype(int), 1, 2000)
    layout = SlotLayout(num_slots=8, rows_per_slot=4, row_tokens=32, lanes=4, num_candidates=32)
    cursor = Cursor(layout, fixed_lengths(lengths))
    spread = []
    for _ in range(600):
        pieces = cursor.advance()
        heads = [pieces.position[pieces.slot == slot].max() for slot in range(8)]
        spread.append(max(heads) - min(heads))
    assert cursor.next_position > 20_000
    assert max(spread[300:]) <= 2 * max(spread[:300]), "the spread does not grow with steps"
