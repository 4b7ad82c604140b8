# SPDX-License-Identifier: Apache-2.0
"""MDS shards, our writer and native reader: against a Python reference, and against bad bytes."""

import json
import struct
import threading
import time
import tracemalloc
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.errors import ShardError, StorageError
from moot.loader.shards import (
    Ask,
    MDSWriter,
    Shard,
    ShardInfo,
    find_shards,
    gather,
    ranges,
    read_shard,
)
from moot.loader.shards.compression import compress, decompress
from moot.loader.shards.mds import parse_shard
from moot.loader.storage import open_store

ARRAY_DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32",
                "uint64", "int64", "float64")  # fmt: skip
COLUMNS = {
    "any": "ndarray",
    "domain": "uint8",
    "grid": "ndarray:float32:2,3",
    "id": "str",
    "meta": "json",
    "offset": "int",
    "tokens": "ndarray:uint16",
}


def make_samples(num: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "any": rng.integers(0, 100, rng.integers(1, 9)).astype(ARRAY_DTYPES[i % 11]),
            "domain": i % 7,
            "grid": rng.standard_normal((2, 3)).astype(np.float32),
            "id": f"s{i} \u00e9" * (i % 3),
            "meta": {"i": i, "list": [1, None, "x"]},
            "offset": -i,
            "tokens": rng.integers(0, 65536, rng.integers(1, 400)).astype(np.uint16),
        }
        for i in range(num)
    ]


def write(folder, samples, columns=COLUMNS, **settings_) -> list[Shard]:
    store = open_store(str(folder))
    with MDSWriter(store, columns, **settings_) as writer:
        for sample in samples:
            writer.write(sample)
    return [read_shard(store, info) for info in find_shards(store)]


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> tuple[ShardInfo, np.ndarray]:
    """The index entry and the raw bytes of one good shard."""
    folder = tmp_path_factory.mktemp("valid")
    [shard] = write(folder, make_samples(12))
    return shard.info, np.fromfile(folder / shard.info.basename, np.uint8)


def reference_cells(raw: bytes, columns: dict[str, str]) -> list[dict[str, bytes]]:
    """The bytes of every column of every sample, by the description of the format."""
    (num,) = struct.unpack_from("<I", raw, 0)
    offsets = struct.unpack_from(f"<{num + 1}I", raw, 4)
    fixed = {"domain": 1, "offset": 8, "grid": 24}
    cells = []
    for begin, end in zip(offsets, offsets[1:], strict=False):
        variable = [name for name in columns if name not in fixed]
        sizes = dict(
            zip(variable, struct.unpack_from(f"<{len(variable)}I", raw, begin), strict=True)
        )
        at, cell = begin + 4 * len(variable), {}
        for name in columns:
            size = fixed.get(name, sizes.get(name))
            cell[name] = raw[at : at + size]
            at += size
        assert at == end
        cells.append(cell)
    return cells


def test_native_reader_agrees_with_the_reference(tmp_path):
    samples = make_samples(30)
    [shard] = write(tmp_path, samples)
    raw = (tmp_path / shard.info.basename).read_bytes()
    cells = reference_cells(raw, COLUMNS)
    for name in COLUMNS:
        assert list(map(bytes, shard.cells(name))) == [cell[name] for cell in cells]
    expected = {
        "any": [s["any"].size for s in samples],
        "domain": [1] * 30,
        "grid": [6] * 30,
        "id": [len(s["id"].encode()) for s in samples],
        "meta": [len(json.dumps(s["meta"])) for s in samples],
        "offset": [1] * 30,
        "tokens": [s["tokens"].size for s in samples],
    }
    for name, lengths in expected.items():
        found = shard.lengths(name)
        assert found.dtype == np.uint32
        assert found.tolist() == lengths


def test_values_come_back_as_written(tmp_path):
    samples = make_samples(25)
    [shard] = write(tmp_path, samples)
    order = np.random.default_rng(0).permutation(25)
    for name in COLUMNS:
        for row, value in zip(order, shard.values(name, order), strict=True):
            wanted = samples[row][name]
            if isinstance(wanted, np.ndarray):
                assert value.dtype == wanted.dtype
                assert np.array_equal(value, wanted)
                assert not value.flags.writeable
            else:
                assert value == wanted
    assert shard.scalars("domain").tolist() == [s["domain"] for s in samples]
    assert shard.scalars("domain").dtype == np.uint8
    assert shard.scalars("offset").tolist() == [s["offset"] for s in samples]


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        ("bytes", b"\x00\xff"), ("bytes", b""), ("str", "\u00e9\U0001f600"), ("str", ""),
        ("int", -(2**63)), ("uint64", 2**64 - 1), ("int8", -128), ("float16", 0.5),
        ("float32", -1.5), ("float64", 1e300), ("str_int", 10**50), ("str_float", 0.1),
        ("str_decimal", Decimal("1.10")), ("json", [{"a": None}, 1.5]), ("jpeg", b"\xff\xd8\xff"),
        ("png", b"\x89PNG"),
    ],
)  # fmt: skip
def test_every_encoding_keeps_its_value(tmp_path, encoding, value):
    [shard] = write(tmp_path, [{"x": value}], {"x": encoding})
    [found] = shard.values("x", [0])
    assert found == value


@pytest.mark.parametrize("shape", [(1,), (255,), (256,), (70_000,), (2, 3), (1, 300, 2), (1,) * 32])
@pytest.mark.parametrize("encoding", ["ndarray", "ndarray:int16"])
def test_arrays_of_every_shape(tmp_path, shape, encoding):
    array = np.arange(np.prod(shape)).astype(np.int16).reshape(shape)
    [shard] = write(tmp_path, [{"x": array}, {"x": array.T}], {"x": encoding})
    first, second = shard.values("x", [0, 1])
    assert np.array_equal(first, array)
    assert np.array_equal(second, array.T)
    assert shard.lengths("x").tolist() == [array.size] * 2


def test_big_endian_arrays_are_stored_little_endian(tmp_path):
    array = np.arange(5, dtype=">u2")
    [shard] = write(tmp_path, [{"x": array, "y": array}], {"x": "ndarray", "y": "ndarray:uint16"})
    assert (
        shard.values("x", [0])[0].tolist() == shard.values("y", [0])[0].tolist() == list(range(5))
    )


WIDENING = {
    "uint8": ("uint8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    "int8": ("int8", "int16", "int32", "int64"),
    "uint16": ("uint16", "uint32", "int32", "uint64", "int64"),
    "int16": ("int16", "int32", "int64"),
    "uint32": ("uint32", "uint64", "int64"),
    "int32": ("int32", "int64"),
    "uint64": ("uint64",),
    "int64": ("int64",),
    "float16": ("float16",),
    "float32": ("float32",),
    "float64": ("float64",),
}


@pytest.mark.parametrize("dtype", ARRAY_DTYPES)
@pytest.mark.parametrize("style", ["ndarray", "ndarray:{}", "ndarray:{}:4"])
def test_gather_converts_to_every_wider_type_and_no_other(tmp_path, dtype, style):
    info = np.iinfo(dtype) if dtype[0] != "f" else np.finfo(dtype)
    array = np.array([info.min, info.max, 0, 1], dtype)
    [shard] = write(tmp_path, [{"x": array}], {"x": style.format(dtype)})
    one = np.zeros(1, np.int32)
    for target in ARRAY_DTYPES:
        out = np.full(3, 77, target)
        call = (one, one, np.ones(1, np.int64), np.full(1, 4, np.int64), out)
        if target in WIDENING[dtype]:
            gather([shard], "x", *call)
            assert out.tolist() == array[1:].tolist()
            continue
        with pytest.raises(ShardError, match=rf"sample 0: holds {dtype}, which {target} cannot"):
            gather([shard], "x", *call)
        assert (out == 77).all()


@settings(max_examples=40)
@given(data=st.data())
def test_gather_equals_slicing(pieces_corpus, data):
    shards, documents = pieces_corpus
    pick = st.integers(0, len(documents) - 1)
    chosen = data.draw(st.lists(pick, max_size=20))
    pos, rows, starts, stops, wanted = [], [], [], [], []
    for i in chosen:
        shard, row, tokens = documents[i]
        start = data.draw(st.integers(0, tokens.size))
        stop = data.draw(st.integers(start, tokens.size))
        pos.append(shard), rows.append(row), starts.append(start), stops.append(stop)
        wanted.append(tokens[start:stop])
    expected = np.concatenate([np.empty(0, np.int64), *wanted]).astype(np.int64)
    out = np.full(expected.size, -1, np.int64)
    gather(shards, "tokens", np.array(pos, np.int32), np.array(rows, np.int32),
           np.array(starts, np.int64), np.array(stops, np.int64), out)  # fmt: skip
    assert np.array_equal(out, expected)


@pytest.fixture(scope="module")
def pieces_corpus(tmp_path_factory):
    samples = make_samples(40, seed=3)
    shards = write(
        tmp_path_factory.mktemp("pieces"), samples, size_limit=6000, compression="zstd:1"
    )
    assert len(shards) > 2
    places = [(s, r) for s, shard in enumerate(shards) for r in range(shard.num_samples)]
    return shards, [(s, r, x["tokens"]) for (s, r), x in zip(places, samples, strict=True)]


def one_piece(shard, start, stop, out, *, row=0, pos=0):
    int32, int64 = (lambda x: np.array([x], np.int32)), (lambda x: np.array([x], np.int64))
    gather([shard], "tokens", int32(pos), int32(row), int64(start), int64(stop), out)


def test_gather_refuses_what_does_not_fit(tmp_path):
    [shard] = write(
        tmp_path, [{"tokens": np.arange(5, dtype=np.uint16)}], {"tokens": "ndarray:uint16"}
    )
    out = np.full(3, 7, np.int64)
    for start, stop in ((-1, 2), (3, 6), (2, 1), (0, 2**62), (-(2**62), 2**62)):
        with pytest.raises(ShardError, match=r"shard\.00000\.mds, sample 0: elements .* it has 5"):
            one_piece(shard, start, stop, out)
    with pytest.raises(ShardError, match=r"sample 1: the shard has 1 samples"):
        one_piece(shard, 0, 3, out, row=1)
    with pytest.raises(ShardError, match=r"sample -1: the shard has 1 samples"):
        one_piece(shard, 0, 3, out, row=-1)
    for pos in (-1, 1):
        with pytest.raises(ValueError, match="no shard at position"):
            one_piece(shard, 0, 3, out, pos=pos)
    with pytest.raises(ValueError, match="hold 2 elements, out has 3"):
        one_piece(shard, 0, 2, out)
    with pytest.raises(ValueError, match="equally long"):
        gather([shard], "tokens", np.zeros(1, np.int32), np.zeros(2, np.int32),
               np.zeros(1, np.int64), np.zeros(1, np.int64), out)  # fmt: skip
    with pytest.raises(ShardError, match="no column 'nope'; it holds tokens"):
        shard.lengths("nope")
    assert (out == 7).all()


def test_gather_writes_into_the_array_it_was_given_or_refuses(tmp_path):
    [shard] = write(
        tmp_path, [{"tokens": np.arange(4, dtype=np.uint16)}], {"tokens": "ndarray:uint16"}
    )
    read_only = np.zeros(4, np.int64)
    read_only.flags.writeable = False
    strided = np.zeros(8, np.int64)[::2]
    for out in (
        read_only,
        strided,
        np.zeros(4, bool),
        np.zeros(4, ">i8"),
    ):
        with pytest.raises((TypeError, ValueError, BufferError)):
            one_piece(shard, 0, 4, out)
        assert not out.any()


def test_shard_keeps_its_bytes_alive(tmp_path):
    table = write(tmp_path, make_samples(8), compression="zstd")[0].elements("tokens")
    expected = [s["tokens"].size for s in make_samples(8)]
    junk = [np.random.default_rng(i).bytes(1 << 20) for i in range(8)]
    assert table.lengths.tolist() == expected
    assert len(junk) == 8


def test_gather_releases_the_gil(tmp_path):
    num, pieces = 1 << 22, 8
    [shard] = write(tmp_path, [{"tokens": np.zeros(num, np.uint16)}], {"tokens": "ndarray:uint16"})
    out = np.empty(num * pieces, np.int64)
    zeros = np.zeros(pieces, np.int32)
    call = (zeros, zeros, zeros.astype(np.int64), np.full(pieces, num, np.int64), out)
    span, ticks = [], []

    def work():
        span.append(time.perf_counter())
        gather([shard], "tokens", *call)
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while len(span) < 2:
        ticks.append(time.perf_counter())
        time.sleep(0)
    thread.join()
    margin = 0.1 * (span[1] - span[0])
    # With the GIL held, nothing but the gather runs inside its span.
    assert sum(span[0] + margin < tick < span[1] - margin for tick in ticks) > 20
    assert not out.any()


def check_bad_bytes(info: ShardInfo, buffer: np.ndarray) -> bool:
    """Use every column of a damaged shard; True if all of it read. Only a ShardError may come."""
    try:
        shard = parse_shard(info, buffer)
    except ShardError as error:
        assert info.basename in str(error)
        return False
    is_whole = True
    for name in info.column_names:
        is_whole &= check_column(shard, name)
    return is_whole


def check_column(shard: Shard, name: str) -> bool:
    try:
        lengths = shard.lengths(name).astype(np.int64)
        values = shard.values(name, np.arange(shard.num_samples))
    except ShardError as error:
        assert "sample" in str(error)
        return False
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    assert [a.size for a in arrays] == (lengths.tolist() if arrays else [])
    for row, array in enumerate(arrays):
        out = np.empty(array.size, array.dtype)
        zero, stop = np.zeros(1, np.int64), lengths[row : row + 1]
        gather([shard], name, np.zeros(1, np.int32), np.full(1, row, np.int32), zero, stop, out)
        assert out.tobytes() == array.tobytes()
    return True


@settings(max_examples=400)
@given(
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes_never_crash(valid, flips):
    info, good = valid
    bad = good.copy()
    for at, mask in flips:
        bad[at % bad.size] ^= mask
    check_bad_bytes(info, bad)


@settings(max_examples=300)
@given(data=st.data())
def test_lies_in_headers_never_crash(valid, data):
    """Overwrite words where the format keeps numbers: the offsets and the sizes in samples."""
    info, good = valid
    bad = good.copy()
    offsets = good[4 : 4 * (info.num_samples + 2)].view("<u4")
    places = [*range(0, 4 * (info.num_samples + 2), 4)]
    places += [int(o) + 4 * k for o in offsets[:-1] for k in range(4)]
    near = st.sampled_from(offsets.tolist()).flatmap(lambda o: st.integers(o - 8, o + 8))
    words = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1), near)
    for at in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        bad[at : at + 4] = np.frombuffer(struct.pack("<I", data.draw(words)), np.uint8)
    check_bad_bytes(info, bad)


def test_every_truncation_is_refused(valid):
    info, good = valid
    for size in [*range(0, 400), *range(400, good.size, 37)]:
        with pytest.raises(ShardError, match=info.basename):
            parse_shard(info, good[:size].copy())
    with pytest.raises(ShardError, match="samples end at byte"):
        parse_shard(info, np.concatenate([good, good[:1]]))


@settings(max_examples=100)
@given(junk=st.binary(max_size=300), num=st.integers(0, 40))
def test_junk_never_crashes(valid, junk, num):
    info, _ = valid
    junk = struct.pack("<I", info.num_samples) + struct.pack("<I", num) * num + junk
    check_bad_bytes(info, np.frombuffer(junk, np.uint8))


def test_bytes_that_change_after_parsing_never_crash(valid):
    info, good = valid
    buffer = good.copy()
    shard = parse_shard(info, buffer)
    rng = np.random.default_rng(0)
    for _ in range(200):
        buffer[:] = good
        buffer[rng.integers(0, buffer.size, 40)] = rng.integers(0, 256, 40)
        for name in info.column_names:
            check_column(shard, name)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 11, "holds 11 samples, the index says 12"),
        (4, 8, "first sample begins at byte 8"),
        (4, 2**32 - 1, "first sample begins"),
        (12, 10, r"sample 1: its bytes \d+ to 10 overlap another sample"),
        (12, 2**31, r"sample 1: its bytes \d+ to 2147483648 overlap another sample or leave"),
    ],
)
def test_lying_offsets_are_named(valid, place, value, message):
    info, good = valid
    bad = good.copy()
    bad[place : place + 4] = np.frombuffer(struct.pack("<I", value), np.uint8)
    with pytest.raises(ShardError, match=message):
        parse_shard(info, bad)


def test_lying_size_names_shard_and_sample(valid):
    info, good = valid
    bad = good.copy()
    at = int(good[4 + 4 * 5 : 8 + 4 * 5].view("<u4")[0])
    bad[at] ^= 1
    shard = parse_shard(info, bad)
    with pytest.raises(ShardError, match=r"shard\.00000\.mds, sample 5: its columns take"):
        shard.lengths("tokens")


def test_header_of_other_columns_is_refused(valid):
    info, good = valid
    bad = np.frombuffer(good.tobytes().replace(b'"domain"', b'"Domain"', 1), np.uint8)
    with pytest.raises(ShardError, match="not those the index states"):
        parse_shard(info, bad)


def damage(folder, change):
    """Apply `change` to the bytes of the one shard file; return a call that fetches it again."""
    [path] = list(folder.glob("shard.*"))
    path.write_bytes(change(path.read_bytes()))
    store = open_store(str(folder))
    return lambda **asked: read_shard(store, find_shards(store)[0], Ask(**asked))


COMPRESSIONS = ["zstd", "gz:1", "bz2", "br:1", "snappy"]


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_corrupt_shard_names_both_hashes(tmp_path, compression):
    write(tmp_path, make_samples(9), compression=compression)
    fetch = damage(tmp_path, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(
        ShardError, match=r"corrupt: xxh64 is [0-9a-f]{16}, .* expects [0-9a-f]{16}"
    ):
        fetch()


@pytest.mark.parametrize("compression", [None, "zstd:3"])
@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d[:9], lambda d: b""]
)
def test_shard_of_another_length_is_refused(tmp_path, compression, change):
    write(tmp_path, make_samples(9), compression=compression)
    with pytest.raises(ShardError, match=r"is \d+ bytes, the index states \d+"):
        damage(tmp_path, change)()


def test_missing_shard_is_named(tmp_path):
    write(tmp_path, make_samples(9))
    store = open_store(str(tmp_path))
    [info] = find_shards(store)
    (tmp_path / "shard.00000.mds").unlink()
    with pytest.raises(StorageError, match=r"shard\.00000\.mds: not found"):
        read_shard(store, info)


def edit_index(folder, change):
    index = json.loads((folder / "index.json").read_text())
    change(index["shards"][0])
    (folder / "index.json").write_text(json.dumps(index))
    store = open_store(str(folder))
    return lambda **asked: read_shard(store, find_shards(store)[0], Ask(**asked))


@pytest.mark.parametrize(
    "hashes", [[], ["md5"], ["sha1", "xxh3_128"], ["blake2s", "sha512", "xxh32"]]
)
def test_any_hash_is_verified_the_strongest_first(tmp_path, hashes):
    write(tmp_path, make_samples(3), hashes=hashes)
    strongest = {"sha1 xxh3_128": "sha1", "blake2s sha512 xxh32": "sha512"}.get(
        " ".join(hashes), " ".join(hashes)
    )

    def lie(entry):
        if hashes:
            entry["raw_data"]["hashes"][strongest] = "00"

    fetch = edit_index(tmp_path, lie)
    unverified = fetch(verify="none")
    assert unverified.num_samples == 3
    assert unverified.unverified_bytes == unverified.info.stored_bytes
    if not hashes:
        assert fetch().unverified_bytes == unverified.info.stored_bytes
    else:
        with pytest.raises(ShardError, match=f"corrupt: {strongest} is .* expects 00"):
            fetch()


def test_unknown_hash_is_not_passed_over(tmp_path):
    write(tmp_path, make_samples(3))
    fetch = edit_index(tmp_path, lambda e: e["raw_data"].update(hashes={"crc99": "00"}))
    with pytest.raises(ShardError, match="cannot verify, unknown hashes crc99"):
        fetch()


def test_index_that_lies_about_samples_is_caught(tmp_path):
    write(tmp_path, make_samples(9))
    with pytest.raises(ShardError, match="holds 9 samples, the index says 8"):
        edit_index(tmp_path, lambda entry: entry.update(samples=8))()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("difference", [-1, 1, 5000])
def test_index_that_lies_about_bytes_is_caught(tmp_path, difference, compression):
    write(tmp_path, make_samples(9), compression=compression)

    def lie(entry):
        entry["raw_data"]["bytes"] += difference

    with pytest.raises(ShardError, match=r"does not decompress to the \d+ bytes the index states"):
        edit_index(tmp_path, lie)()


@pytest.mark.parametrize("compression", ["zstd:1", "gz:9", "bz2:9", "br:5", "snappy"])
def test_bomb_stops_at_the_stated_size(tmp_path, compression):
    [shard] = write(tmp_path, make_samples(9), compression=compression)
    bomb = compress(bytes(1 << 26), compression)
    assert len(bomb) < 1 << 22
    (tmp_path / shard.info.zip_basename).write_bytes(bomb)
    fetch = edit_index(tmp_path, lambda e: e["zip_data"].update(bytes=len(bomb), hashes={}))
    import pyarrow

    before = pyarrow.default_memory_pool().max_memory()
    tracemalloc.start()
    with pytest.raises(ShardError, match="does not decompress"):
        fetch()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - len(bomb) < 12 << 20  # index.json is read into 8 MiB
    assert pyarrow.default_memory_pool().max_memory() - before < 4 << 20


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_zip_that_is_of_another_kind_is_refused(tmp_path, compression):
    write(tmp_path, make_samples(9), compression=compression, hashes=())
    with pytest.raises(ShardError, match="does not decompress"):
        damage(tmp_path, lambda data: bytes(len(data)))()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_zip_that_is_cut_is_refused(tmp_path, compression):
    samples = make_samples(9)
    [shard] = write(tmp_path, samples, compression=compression, hashes=())
    stored = (tmp_path / shard.info.zip_basename).read_bytes()
    for size in (0, 1, len(stored) // 2, len(stored) - 1):
        (tmp_path / shard.info.zip_basename).write_bytes(stored[:size])
        fetch = edit_index(tmp_path, lambda e, size=size: e["zip_data"].update(bytes=size))
        with pytest.raises(ShardError, match="does not decompress"):
            fetch()


@pytest.mark.parametrize("compression", ["zstd", "gz", "bz2"])
def test_several_frames_are_one_file(tmp_path, compression):
    [shard] = write(tmp_path, make_samples(9), compression=compression, hashes=())
    path = tmp_path / shard.info.zip_basename
    raw = np.empty(shard.info.raw_bytes, np.uint8)
    decompress("", np.fromfile(path, np.uint8), compression, raw)
    parts = [raw[:100], raw[100:5000], raw[5000:]]
    stored = b"".join(compress(part.tobytes(), compression) for part in parts)
    path.write_bytes(stored)
    fetch = edit_index(tmp_path, lambda entry: entry["zip_data"].update(bytes=len(stored)))
    assert fetch().lengths("tokens").tolist() == shard.lengths("tokens").tolist()


def test_bad_text_in_a_sample_is_named(tmp_path):
    [shard] = write(tmp_path, [{"id": "ok"}, {"id": "\u00e9"}], {"id": "str"}, hashes=())
    fetch = damage(tmp_path, lambda data: data[:-2] + b"\xff\xff")
    assert fetch().values("id", [0]) == ["ok"]
    with pytest.raises(ShardError, match="sample 1, column 'id': 'utf-8' codec"):
        fetch().values("id", [1])


def test_writer_splits_at_the_size_limit(tmp_path):
    samples = [{"x": bytes(100)} for _ in range(50)]
    shards = write(tmp_path, samples, {"x": "bytes"}, size_limit=1000)
    assert sum(shard.num_samples for shard in shards) == 50
    assert all(shard.info.raw_bytes <= 1000 for shard in shards)
    assert all(s.info.raw_bytes + 108 > 1000 for s in shards[:-1])


def test_sample_above_the_limit_has_its_own_shard(tmp_path):
    samples = [{"x": bytes(n)} for n in (5000, 1, 5000)]
    shards = write(tmp_path, samples, {"x": "bytes"}, size_limit=1000)
    assert [shard.num_samples for shard in shards] == [1, 1, 1]


def test_exception_publishes_no_index(tmp_path):
    store = open_store(str(tmp_path))
    with (
        pytest.raises(RuntimeError, match="stop"),
        MDSWriter(store, {"x": "bytes"}, size_limit=500) as w,
    ):
        for _ in range(30):
            w.write({"x": bytes(100)})
        raise RuntimeError("stop")
    assert "index.json" not in store.list()
    with pytest.raises(ShardError, match="writer is closed"):
        w.write({"x": b""})
    write(tmp_path, [{"x": b"1"}], {"x": "bytes"})  # what a broken run left is written over


def test_writer_does_not_touch_a_corpus_that_is_there(tmp_path):
    write(tmp_path, make_samples(2))
    with pytest.raises(StorageError, match="holds a corpus already"):
        MDSWriter(open_store(str(tmp_path)), COLUMNS)


@pytest.mark.parametrize(
    ("encoding", "value", "error", "message"),
    [
        ("str", b"x", TypeError, "expected str, got bytes"),
        ("bytes", "x", TypeError, "expected bytes, got str"),
        ("uint8", 256, ValueError, "256 does not fit uint8"),
        ("uint8", np.int64(-1), ValueError, "-1 does not fit uint8"),
        ("uint8", 1.0, TypeError, "expected an integer, got float"),
        ("float16", 1e9, ValueError, "does not fit float16"),
        ("float32", "1", TypeError, "expected a number, got str"),
        ("ndarray:uint16", np.zeros(3, np.int64), ValueError, "array of uint16, got int64"),
        ("ndarray:uint16", [1, 2], TypeError, "expected ndarray, got list"),
        ("ndarray:uint16:4", np.zeros(3, np.uint16), ValueError, r"shape \(4,\), got \(3,\)"),
        ("ndarray:uint16", np.zeros(0, np.uint16), ValueError, "needs 1 to 63 axes and a value"),
        ("ndarray", np.zeros((), np.uint16), ValueError, "needs 1 to 63 axes"),
        ("ndarray", np.zeros(3, bool), ValueError, "arrays of bool cannot be stored"),
        ("ndarray", np.array(["x"]), ValueError, "cannot be stored"),
        ("json", {1, 2}, TypeError, "not JSON serializable"),
        ("str_int", "1", TypeError, "expected int, got str"),
    ],
)
def test_wrong_value_names_sample_and_column(tmp_path, encoding, value, error, message):
    writer = MDSWriter(open_store(str(tmp_path)), {"x": encoding})
    with pytest.raises(error, match=f"sample 0, column 'x' .*{message}"):
        writer.write({"x": value})


def test_missing_and_unknown_columns_are_named(tmp_path):
    writer = MDSWriter(open_store(str(tmp_path)), {"x": "int", "y": "int"})
    writer.write({"x": 1, "y": 2})
    with pytest.raises(ValueError, match="sample 1: missing columns: y; unknown columns: z"):
        writer.write({"x": 1, "z": 2})


@pytest.mark.parametrize(
    ("columns", "settings_", "message"),
    [
        ({}, {}, "at least one column"),
        ({"x": "pkl"}, {}, "'pkl' is refused: unpickling runs code"),
        ({"x": "pil"}, {}, "'pil' is not written"),
        ({"x": "uint7"}, {}, "unknown encoding 'uint7'; known are int, uint8"),
        ({"x": "ndarray:uint16:2:3"}, {}, "malformed encoding"),
        ({"x": "int"}, {"compression": "lzma"}, "unknown compression 'lzma'"),
        ({"x": "int"}, {"compression": "gz:10"}, "the level of gz is 0 to 9"),
        ({"x": "int"}, {"compression": "snappy:1"}, "snappy has no levels"),
        ({"x": "int"}, {"hashes": ("crc99",)}, "unknown hash 'crc99'"),
        ({"x": "int"}, {"size_limit": 2**32}, "size_limit"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, columns, settings_, message):
    with pytest.raises(ShardError, match=message):
        MDSWriter(open_store(str(tmp_path)), columns, **settings_)


# ---- single samples


@settings(max_examples=30)
@given(data=st.data())
def test_some_rows_of_every_encoding(tmp_path_factory, data):
    samples = make_samples(20, seed=data.draw(st.integers(0, 99)))
    folder = tmp_path_factory.mktemp("rows")
    write(folder, samples)
    store = open_store(str(folder))
    [info] = find_shards(store)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, 19), max_size=15))), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "GAP_BYTES", data.draw(st.sampled_from([-1, 300, 10**6])))
        shard = read_shard(store, info, Ask(rows=rows, verify="ranges"))
    whole = read_shard(store, info)
    for name in COLUMNS:
        for one, other in zip(shard.values(name, rows), whole.values(name, rows), strict=True):
            assert np.array_equal(one, other)
        if name != "any":  # each sample of its own type
            assert shard.lengths(name)[rows].tolist() == whole.lengths(name)[rows].tolist()
    for row in rows:
        check_rows_gather(shard, samples, int(row))


def check_rows_gather(shard, samples, row):
    for name, dtype in (("tokens", np.uint16), ("grid", np.float32), ("domain", np.uint8)):
        expected = np.asarray(samples[row][name], dtype).reshape(-1)
        out, place = np.empty(expected.size, dtype), np.array([row], np.int32)
        zero = np.zeros(1, np.int64)
        gather([shard], name, zero.astype(np.int32), place, zero, zero + expected.size, out)
        assert np.array_equal(out, expected)


def test_rows_that_differ_in_their_type_are_values_only(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "GAP_BYTES", -1)
    write(tmp_path, make_samples(12))
    store = open_store(str(tmp_path))
    shard = read_shard(store, find_shards(store)[0], Ask(rows=np.array([3, 7]), verify="ranges"))
    assert [value.dtype.name for value in shard.values("any", [3, 7])] == ["int16", "float32"]
    with pytest.raises(ShardError, match="2 samples that were read, sample 1: is of another"):
        shard.elements("any")


def test_strict_reads_all_of_a_file_for_a_row(tmp_path):
    write(tmp_path, make_samples(12))
    fetch = damage(tmp_path, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert fetch(rows=np.array([0]), verify="ranges").unverified_bytes > 0
    with pytest.raises(ShardError, match="corrupt: xxh64"):
        fetch(rows=np.array([0]), verify="strict")


def test_header_longer_than_the_first_range(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "GAP_BYTES", -1)
    columns = {f"column_of_a_long_name_{i:04}": "int" for i in range(300)}
    samples = [dict.fromkeys(columns, i) for i in range(5)]
    write(tmp_path, samples, columns)
    store = open_store(str(tmp_path))
    shard = read_shard(store, find_shards(store)[0], Ask(rows=np.array([1, 4]), verify="ranges"))
    assert shard.values("column_of_a_long_name_0299", [1, 4]) == [1, 4]


@settings(max_examples=200)
@given(data=st.data())
def test_lies_in_headers_never_crash_single_rows(valid, data):
    info, good = valid
    bad = good.copy()
    at = 4 * data.draw(st.integers(0, info.num_samples + 1))
    word = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)))
    bad[at : at + 4] = np.frombuffer(struct.pack("<I", word), np.uint8)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, info.num_samples - 1)))), np.int64)
    store = open_store("memory://lies/x")
    store.put(info.basename, bad.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "GAP_BYTES", -1)
        try:
            shard = read_shard(store, info, Ask(rows=rows, verify="ranges"))
            for name in info.column_names:
                shard.values(name, rows)
        except ShardError as error:
            assert info.basename in str(error)
    store.delete(info.basename)
