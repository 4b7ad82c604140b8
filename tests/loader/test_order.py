import numpy as np
import pytest
from corpora import random_lengths
from hypothesis import given
from hypothesis import strategies as st
from moot.loader import ConfigError, StateError
from moot.loader._core import POSITION_BITS, mix64, permute
from moot.loader.order import Cursor, Mixture, Order, Packing, SlotLayout, default_num_slots


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


def positions_of(order, queue, start, stop):
    return (queue << POSITION_BITS) | np.arange(start, stop)


def samples_of(order, epoch):
    """(shard, row) of one epoch of every strand, as they come."""
    found = []
    for queue in range(order.num_strands * order.num_streams):
        size = order.num_samples(queue // order.num_streams, queue % order.num_streams)
        shards, rows = order.locate(positions_of(order, queue, epoch * size, (epoch + 1) * size))
        found += zip(shards.tolist(), rows.tolist(), strict=True)
    return found


@given(
    st.lists(
        st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(lambda s: sum(s) >= 4),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.integers(0, 99),
    st.booleans(),
)
def test_an_epoch_holds_every_sample_once(streams, num_strands, ways, seed, shuffle):
    order = Order(
        [np.array(sizes) for sizes in streams],
        seed=seed,
        num_strands=num_strands,
        ways=ways,
        shuffle=shuffle,
    )
    sizes = [size for stream in streams for size in stream]
    everything = [(s, r) for s, size in enumerate(sizes) for r in range(size)]
    for epoch in (0, 1, 7):
        assert sorted(samples_of(order, epoch)) == everything


def test_without_shuffling_samples_come_as_they_are_stored():
    order = Order([np.array([5, 3, 9])], seed=1, num_strands=1, ways=4, shuffle=False)
    assert samples_of(order, 0) == [(s, r) for s, n in enumerate([5, 3, 9]) for r in range(n)]


def test_order_differs_by_epoch_and_seed_and_is_found_at_random():
    def make(seed):
        return Order([np.full(20, 50)], seed=seed, num_strands=2, ways=2)

    keys = positions_of(make(3), 1, 0, 1500)
    shards, rows = make(3).locate(keys)
    first, second = shards[:500] * 50 + rows[:500], shards[500:1000] * 50 + rows[500:1000]
    assert not np.array_equal(first, second) and set(first) == set(second)
    assert not np.array_equal(shards, make(4).locate(keys)[0])
    some = np.array([1499, 0, 1234, 77])
    again = make(3).locate(keys[some])
    assert np.array_equal(again[0], shards[some]) and np.array_equal(again[1], rows[some])


def test_strands_hold_equal_parts_and_read_few_shards_at_a_time():
    order = Order([np.full(64, 100)], seed=1, num_strands=4, ways=2)
    assert [order.num_samples(strand, 0) for strand in range(4)] == [1600] * 4
    for strand in range(4):
        shards, _ = order.locate(positions_of(order, strand, 0, 1600))
        for start in range(0, 1600, 100):
            assert len(set(shards[start : start + 100].tolist())) <= 4  # two ways, one border each
        assert len(set(shards.tolist())) <= 17


@given(st.integers(14, 90), st.integers(0, 99))
def test_strands_begin_with_few_shards_and_change_them_one_after_the_other(num_shards, seed):
    order = Order([np.full(num_shards, 64)], seed=seed, num_strands=8)
    size = order.num_samples(0, 0)
    paths = [order.locate(positions_of(order, strand, 0, size))[0] for strand in range(8)]
    assert len({int(path[0]) for path in paths}) == 2
    assert sum(len(set(path.tolist())) for path in paths) <= num_shards + 24
    changes = [np.flatnonzero(np.diff(path)) for path in paths]
    when = np.concatenate([change[1:] for change in changes])  # behind the quarter all change
    _, together = np.unique(when, return_counts=True)
    assert together.max() <= 3


def test_a_corpus_of_few_shards_is_cut_evenly():
    order = Order([np.full(8, 64)], seed=1, num_strands=8)
    for strand in range(8):
        shards, _ = order.locate(positions_of(order, strand, 0, 64))
        assert len(set(shards.tolist())) == 1


@given(st.integers(0, 50), st.integers(1, 4), st.booleans())
def test_upcoming_names_what_is_read_next(seed, ways, shuffle):
    sizes = np.random.default_rng(seed).integers(1, 40, 12)
    order = Order([sizes], seed=seed, num_strands=2, ways=ways, shuffle=shuffle)
    for position in range(0, 2 * order.num_samples(1, 0), 7):
        upcoming = list(order.upcoming(1, position))
        reach = min(distance for distance, _ in upcoming if distance > 0)
        shards, _ = order.locate(positions_of(order, 1, position, position + max(reach, 1)))
        assert set(shards.tolist()) <= {shard for _, shard in upcoming}
        assert {shard for distance, shard in upcoming if distance == 0} >= {int(shards[0])}


def test_a_stream_smaller_than_the_strands_is_refused():
    with pytest.raises(ConfigError, match="stream 1 holds 3 samples for 4 strands"):
        Order([np.array([9]), np.array([3])], seed=0, num_strands=4)


LENGTHS = random_lengths(997)


def lengths_of(shards, rows):
    return LENGTHS[(shards * 131 + rows) % 997].astype(np.int64)


def make_cursor(layout, lengths=lengths_of, weights=(1.0,), streams=1, ways=2, scale=1):
    samples = [np.array([100, 50, 80, 33]) * scale for _ in range(streams)]
    order = Order(samples, seed=1, num_strands=layout.num_strands, ways=ways)
    return Cursor(layout, order, lengths, Mixture(weights))


def steps_of(cursor, first, chunks):
    """Each step's pieces [6, k] and the table behind it, planned in blocks of at most `chunks`."""
    steps, tables = [], []
    for most in chunks:
        left = most
        while left:
            block = cursor.advance(first + len(steps), left)
            left -= block.num_steps
            start = 0
            for i, end in enumerate(block.end.tolist()):
                names = ("slot", "shard", "row", "offset", "length", "target")
                steps.append(np.stack([getattr(block, name)[start:end] for name in names]))
                tables.append(block.tables[i].copy())
                start = end
    return steps, tables


LAYOUTS = [
    (Packing.CONTIGUOUS, 4, 0),
    (Packing.OFFER, 5, 12),
    (Packing.PAD, 4, 0),
    (Packing.FIRST_FIT, 8, 0),
    (Packing.BEST_FIT, 8, 0),
]


def make_layout(packing, lanes, num_candidates, num_strands=2):
    return SlotLayout(
        num_slots=4,
        rows_per_slot=4,
        row_tokens=256,
        lanes=lanes,
        packing=packing,
        num_candidates=num_candidates,
        num_strands=num_strands,
    )


@pytest.mark.parametrize("num_strands", [1, 2, 4])
@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind[0].name)
def test_a_plan_does_not_depend_on_how_far_it_reaches(kind, num_strands):
    layout = make_layout(*kind, num_strands)
    one, one_tables = steps_of(make_cursor(layout), 0, [1] * 30)
    many, many_tables = steps_of(make_cursor(layout), 0, [30])
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(one_tables, many_tables, strict=True))


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind[0].name)
def test_a_loaded_cursor_goes_on_equally(kind):
    layout = make_layout(*kind)
    steps, tables = steps_of(make_cursor(layout, streams=2, weights=(3, 1)), 0, [25])
    for at in (0, 7, 23):
        other = make_cursor(layout, streams=2, weights=(3, 1))
        other.load(tables[at])
        again, _ = steps_of(other, at + 1, [25 - at - 1])
        assert all(np.array_equal(a, b) for a, b in zip(steps[at + 1 :], again, strict=True))


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind[0].name)
def test_no_token_is_lost_repeated_or_out_of_order(kind):
    packing, _, num_candidates = kind
    steps, _ = steps_of(make_cursor(make_layout(*kind), scale=20), 0, [40])  # within an epoch
    read, owner = {}, {}
    for pieces in steps:
        in_order = pieces[:, np.lexsort((pieces[3], pieces[2], pieces[1]))]
        for slot, shard, row, offset, length, _ in in_order.T.tolist():
            key = (shard, row)
            assert owner.setdefault(key, slot) == slot, "one slot a document"
            assert read.get(key, 0) == offset and length > 0
            read[key] = offset + length
            assert read[key] <= lengths_of(shard, row)
        for slot in range(4):
            mine = pieces[:, pieces[0] == slot]
            if packing == Packing.OFFER:
                assert mine.shape[1] == num_candidates and mine[4].max() <= 256
                continue
            assert (np.diff(mine[5]) >= mine[4][:-1]).all() and (mine[4] + mine[5]).max() <= 1024
            if packing == Packing.CONTIGUOUS:
                assert mine[4].sum() == 1024
            else:
                assert (mine[5] % 256 + mine[4] <= 256).all(), "no piece crosses a row"


@pytest.mark.parametrize("packing", [Packing.FIRST_FIT, Packing.BEST_FIT])
def test_whole_documents_stay_whole_and_fill_rows_well(packing):
    steps, _ = steps_of(make_cursor(make_layout(packing, 16, 0)), 0, [60])
    tokens = 0
    for pieces in steps:
        _, shard, row, offset, length, _ = pieces
        whole = lengths_of(shard, row)
        assert (length == np.minimum(whole - offset, 256)).all()
        tokens += length.sum()
    assert tokens / (60 * 4 * 4 * 256) > 0.9


def test_empty_documents_are_passed_over():
    def lengths(shards, rows):
        return np.where(rows % 3 == 2, 40, 0).astype(np.int64)

    steps, _ = steps_of(make_cursor(make_layout(Packing.OFFER, 5, 12), lengths), 0, [20])
    rows = np.concatenate([pieces[2] for pieces in steps])
    assert len(rows) == 20 * 48 and (rows % 3 == 2).all()


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(lambda w: sum(w) > 0))
def test_a_mixture_draws_each_stream_its_weight(weights):
    layout = SlotLayout(num_slots=1, rows_per_slot=4, row_tokens=16, lanes=4)
    fixed = make_cursor(
        layout, lambda shards, rows: np.full(len(shards), 16), weights, len(weights)
    )
    steps, _ = steps_of(fixed, 0, [10 * sum(weights)])
    streams = np.concatenate([pieces[1] // 4 for pieces in steps])
    for start in range(0, len(streams), 4 * sum(weights)):
        some = streams[start : start + 4 * sum(weights)]
        assert np.bincount(some, minlength=len(weights)).tolist() == [4 * w for w in weights]


def test_a_mixture_changes_at_its_step_and_is_replayed_from_the_state():
    layout = SlotLayout(num_slots=2, rows_per_slot=2, row_tokens=16, lanes=2)

    def fixed(shards, rows):
        return np.full(len(shards), 16, dtype=np.int64)

    cursor = make_cursor(layout, fixed, (1, 1), 2)
    cursor.mixture.change(10, (1.0, 0.0))
    cursor.mixture.change(20, (0.25, 0.75))
    steps, tables = steps_of(cursor, 0, [40])
    streams = [(pieces[1] // 4).tolist() for pieces in steps]
    assert all(sorted(drawn) == [0, 0, 1, 1] for drawn in streams[:10])
    assert all(drawn == [0, 0, 0, 0] for drawn in streams[10:20])
    assert sum(map(sum, streams[20:])) == 60
    other = make_cursor(layout, fixed, (1, 1), 2)
    other.mixture = other.mixture.loaded(cursor.mixture.state(14), 14)
    other.load(tables[13])
    again, _ = steps_of(other, 14, [26])
    assert all(np.array_equal(a, b) for a, b in zip(steps[14:], again, strict=True))


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_weights_that_cannot_be_drawn_from_are_refused(weights):
    with pytest.raises(ConfigError, match="weights"):
        Mixture(weights)


def test_cursor_refuses_a_table_of_another_shape():
    layout = SlotLayout(num_slots=3, rows_per_slot=4, row_tokens=50, lanes=4)
    with pytest.raises(StateError, match="num_slots"):
        make_cursor(layout).load(np.zeros((9, 2), np.int64))


def test_a_corpus_without_tokens_is_an_error_not_a_hang():
    layout = SlotLayout(num_slots=1, rows_per_slot=1, row_tokens=8, lanes=1)
    with pytest.raises(ConfigError, match="hold no token"):
        make_cursor(layout, lambda shards, rows: np.zeros(len(shards), int)).advance(0, 4)


def test_default_slots_leave_four_rows():
    rows = (1, 4, 8, 16, 48, 256, 512)
    assert [default_num_slots(count) for count in rows] == [1, 1, 2, 4, 8, 64, 64]
    with pytest.raises(ConfigError):
        SlotLayout(num_slots=0, rows_per_slot=1, row_tokens=1, lanes=1)
    with pytest.raises(ConfigError, match="divide num_slots"):
        SlotLayout(num_slots=4, rows_per_slot=1, row_tokens=1, lanes=1, num_strands=3)


@given(st.integers(0, 50), st.integers(1, 3), st.integers(0, 400))
def test_upcoming_names_all_that_is_read_within_reach(seed, ways, reach):
    sizes = np.random.default_rng(seed).integers(1, 40, 30)
    order = Order([sizes], seed=seed, num_strands=2, ways=ways)
    position = seed * 7
    left = order.num_samples(1, 0) - position % order.num_samples(1, 0)
    named = {shard for _, shard in order.upcoming(1, position, reach)}
    shards, _ = order.locate(positions_of(order, 1, position, position + min(reach + 1, left)))
    assert set(shards.tolist()) <= named
