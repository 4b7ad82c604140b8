# SPDX-License-Identifier: Apache-2.0
"""A file over ranges: what it reads, how few requests it takes, how its errors come out."""

import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moot.loader.errors import StorageError
from moot.loader.shards.ranged_file import RangedFile
from moot.loader.storage import ShortObjectError, open_store

DATA = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()


class CountingStore:
    """A store that remembers the ranges asked of it."""

    def __init__(self, store):
        self.store = store
        self.ranges = []

    def head(self, name):
        return self.store.head(name)

    def get_range_into(self, name, start, buffer):
        self.ranges.append((start, start + len(buffer)))
        return self.store.get_range_into(name, start, buffer)


@pytest.fixture
def store(tmp_path):
    store = CountingStore(open_store(str(tmp_path)))
    store.store.put("data", DATA)
    yield store
    store.store.close()


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("ranged")))
    store.put("data", DATA)
    yield store
    store.close()


moves = st.one_of(
    st.tuples(st.just("seek"), st.integers(0, 6000)),
    st.tuples(st.just("back"), st.integers(0, 5000)),
    st.tuples(st.just("read"), st.integers(-1, 6000)),
    st.tuples(st.just("into"), st.integers(0, 6000)),
    st.tuples(st.just("buffer"), st.integers(-1, 6000)),
)


@given(st.lists(moves, max_size=20), st.sampled_from([1, 7, 512, 10_000]))
def test_it_reads_what_a_plain_file_reads(shared_store, moves, read_ahead):
    file, plain = RangedFile(shared_store, "data", read_ahead=read_ahead), io.BytesIO(DATA)
    for move, number in moves:
        if move == "seek":
            assert file.seek(number) == plain.seek(number)
        elif move == "back":
            assert file.seek(-number, io.SEEK_END) == plain.seek(-number, io.SEEK_END)
        elif move == "into":
            found, expected = bytearray(number), bytearray(number)
            assert file.readinto(found) == plain.readinto(expected)
            assert found == expected
        else:
            read = file.read if move == "read" else file.read_buffer
            assert bytes(read(number)) == plain.read(number)
        assert file.tell() == plain.tell()


def test_small_reads_at_the_end_are_one_request(store):
    file = RangedFile(store, "data", read_ahead=1000)
    file.seek(-8, io.SEEK_END)
    assert file.read(8) == DATA[-8:]
    file.seek(-900, io.SEEK_END)
    assert file.read(100) == DATA[-900:-800]
    assert store.ranges == [(4000, 5000)]


def test_a_large_read_fetches_what_was_asked_for(store):
    file = RangedFile(store, "data", read_ahead=100)
    file.seek(1000)
    assert file.read(2000) == DATA[1000:3000]
    assert store.ranges == [(1000, 3000)]


def test_what_was_fetched_is_not_asked_for_again(store):
    file = RangedFile(store, "data", read_ahead=10)
    file.fetch(1000, 500)
    for start, size in ((1400, 100), (1000, 50), (1000, 500)):
        file.seek(start)
        assert file.read(size) == DATA[start : start + size]
    assert store.ranges == [(1000, 1500)]


def test_a_negative_position_is_refused(store):
    with pytest.raises(ValueError, match="before the file"):
        RangedFile(store, "data").seek(-1)


def test_a_missing_object_is_named(store):
    with pytest.raises(StorageError, match="nothing"):
        RangedFile(store, "nothing")


def test_gzip_reads_through_it(store):
    store.store.put("z", gzip.compress(DATA))
    with gzip.open(RangedFile(store, "z")) as file:
        assert file.read() == DATA


def test_parquet_fetches_the_row_group_asked_for(store):
    table = pa.table({"a": np.arange(40_000), "b": np.arange(40_000) * 3})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=10_000, compression="none", use_dictionary=False)
    store.store.put("t.parquet", sink.getvalue())
    file = pq.ParquetFile(RangedFile(store, "t.parquet"))
    store.ranges.clear()
    found = file.read_row_group(2, columns=["b"])
    assert found.column("b").to_pylist() == list(range(60_000, 90_000, 3))
    fetched = sum(stop - start for start, stop in store.ranges)
    assert fetched < 2 * 80_000 < len(sink.getvalue()) / 2


def test_an_error_of_the_store_comes_through_pyarrow(store):
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": np.arange(100_000)}), sink)
    store.store.put("t.parquet", sink.getvalue())
    file = pq.ParquetFile(RangedFile(store, "t.parquet"))
    store.store.put("t.parquet", sink.getvalue()[:1000])
    with pytest.raises(ShortObjectError, match="is 1000 bytes"):
        file.read_row_group(0)
