# SPDX-License-Identifier: Apache-2.0
"""The shard index: columns that give back what went in, whatever way they went."""

import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moot.loader.corpus import Stream, open_corpus
from moot.loader.errors import ShardError
from moot.loader.shards import MDSWriter, ShardIndex, ShardInfo
from moot.loader.shards.columns import narrow_codes
from moot.loader.shards.index_json import parse_index, read_index
from moot.loader.shards.index_table import (
    TABLE_NAME,
    pack_index,
    read_stored_index,
    unpack_index,
    write_index,
)
from moot.loader.storage import open_store

COLUMNS = [
    (("tokens", "q"), ("ndarray:uint16", "uint8"), (None, 1)),
    (("text",), ("str",), (None,)),
    (("a",), ("ndarray:uint8:3,2",), (6,)),
]
HASHES = st.dictionaries(
    st.sampled_from(["xxh64", "sha1", "md5"]), st.binary(min_size=1, max_size=20).map(bytes.hex)
)
names = st.lists(st.text("ab.-\u00e9", min_size=1, max_size=5), min_size=1, max_size=3).map(
    lambda parts: "/".join(part if part.strip(".") else "x" for part in parts)
)


@st.composite
def infos(draw):
    columns = draw(st.sampled_from(COLUMNS))
    raw_bytes = draw(st.integers(100, 2**32 - 1))
    basename = draw(names)
    zipped = draw(st.sampled_from([None, "derived", "listed"]))
    zip_basename = {None: None, "derived": f"{basename}.zstd", "listed": f"z/{draw(names)}"}[zipped]
    is_mds = draw(st.booleans())
    return ShardInfo(
        shard_id=0,
        basename=basename,
        raw_bytes=raw_bytes,
        zip_basename=zip_basename,
        zip_bytes=draw(st.integers(0, 2**32 - 1)) if zipped else 0,
        compression="zstd:3" if zipped else None,
        raw_hashes=draw(HASHES),
        zip_hashes=draw(HASHES) if zipped else {},
        num_samples=draw(st.integers(0, 20)),
        column_names=columns[0],
        column_encodings=columns[1],
        column_sizes=columns[2],
        format="mds" if is_mds else "parquet",
        start=0 if is_mds else draw(st.integers(0, 2**40)),
        part=0 if is_mds else draw(st.integers(0, 9)),
    )


shard_lists = st.lists(infos(), max_size=8)


def numbered(shards):
    return [dataclasses.replace(info, shard_id=i) for i, info in enumerate(shards)]


@given(shard_lists)
def test_an_index_gives_back_its_shards(shards):
    index = ShardIndex(shards)
    expected = numbered(shards)
    assert list(index) == expected
    assert [index[i] for i in range(len(index))] == expected
    assert [index[-1 - i] for i in range(len(index))] == expected[::-1]
    assert index.samples.tolist() == [info.num_samples for info in shards]
    assert index.raw_bytes.tolist() == [info.raw_bytes for info in shards]
    assert index.stored_bytes.tolist() == [info.stored_bytes for info in shards]
    with pytest.raises(IndexError):
        index[len(index)]


@given(shard_lists, st.slices(10), st.lists(st.integers(0, 7)))
def test_parts_of_an_index_are_those_shards(shards, cut, rows):
    index = ShardIndex(shards)
    assert list(index[cut]) == numbered(shards[cut])
    chosen = [row for row in rows if row < len(shards)]
    assert list(index.subset(chosen)) == numbered([shards[row] for row in chosen])


@given(shard_lists, st.integers(0, 8), st.integers(0, 8))
def test_the_digest_does_not_tell_how_an_index_was_made(shards, first, second):
    index = ShardIndex(shards)
    cuts = sorted((min(first, len(shards)), min(second, len(shards))))
    parts = [shards[: cuts[0]], shards[cuts[0] : cuts[1]], shards[cuts[1] :]]
    joined = ShardIndex.concat([ShardIndex(part) for part in parts])
    sliced = ShardIndex.concat([index[: cuts[0]], index[cuts[0] :]])
    backward = list(range(len(shards)))[::-1]
    twice = index.subset(backward).subset(backward)
    sent = unpack_index(pack_index(index[:]), "sent")
    for other in (joined, sliced, twice, sent):
        assert list(other) == numbered(shards)
        assert other.digest == index.digest


@given(shard_lists, st.data())
def test_the_digest_tells_any_change(shards, data):
    if not shards:
        return
    place = data.draw(st.integers(0, len(shards) - 1))
    changes = [
        {"num_samples": shards[place].num_samples + 1},
        {"raw_bytes": shards[place].raw_bytes - 1},
        {"basename": shards[place].basename + "x"},
        {"raw_hashes": {**shards[place].raw_hashes, "crc": "00"}},
        {"start": shards[place].start + 1},
        {"part": shards[place].part + 1},
        {"column_names": tuple(f"{name}_" for name in shards[place].column_names)},
    ]
    changed = [dataclasses.replace(shards[place], **change) for change in changes]
    digests = {ShardIndex([*shards[:place], s, *shards[place + 1 :]]).digest for s in changed}
    assert len(digests | {ShardIndex(shards).digest}) == len(changes) + 1
    assert ShardIndex([*shards, shards[place]]).digest != ShardIndex(shards).digest


@given(shard_lists)
def test_a_stored_index_is_the_index(tmp_path_factory, shards):
    store = open_store(str(tmp_path_factory.mktemp("stored")))
    index = ShardIndex(shards)
    write_index(store, index)
    found = read_stored_index(store)
    assert list(found) == numbered(shards)
    assert found.digest == index.digest


def many(num):
    """As many shards as mosaicml's merged index names them, two hashes each."""
    rng = np.random.default_rng(0)
    for i in range(num):
        name = f"part-{i // 1000:04}/shard.{i % 1000:05}.mds"
        yield ShardInfo(
            i, name, 40_000_000 + i, f"{name}.zstd", 9_000_000 + i, "zstd:7",
            {"xxh64": rng.bytes(8).hex()}, {"xxh64": rng.bytes(8).hex()}, 9_000 + i,
            *COLUMNS[0],
        )  # fmt: skip


def test_a_shard_takes_less_than_a_hundred_bytes():
    index = ShardIndex(many(4000))
    assert index.nbytes < 80 * len(index)
    assert index.columns.kind.max() == 0


def test_shards_of_many_kinds_are_kept_apart():
    shards = [
        dataclasses.replace(info, column_names=(f"c{info.shard_id}", "q")) for info in many(300)
    ]
    index = ShardIndex.concat([ShardIndex(shards[:200]), ShardIndex(shards[200:])])
    assert list(index) == shards
    assert len(index.columns.kinds) == 300


def test_more_kinds_than_two_bytes_count_take_four():
    codes = np.array([3, 2**16])
    assert narrow_codes(codes, 2**16 + 1).tolist() == codes.tolist()
    assert narrow_codes(codes[:1], 2**16).dtype == np.uint16


def test_a_digest_that_is_no_hash_is_refused():
    info = next(iter(many(1)))
    for text in ("xyz", "abc", "ab cd"):
        with pytest.raises(ShardError, match="hexadecimal"):
            ShardIndex([dataclasses.replace(info, raw_hashes={"xxh64": text})])


@pytest.fixture
def store(tmp_path):
    """A corpus of several compressed shards with index.json."""
    store = open_store(str(tmp_path))
    with MDSWriter(
        store, {"id": "str", "q": "uint8"}, compression="zstd", size_limit=400
    ) as writer:
        for i in range(60):
            writer.write({"id": f"sample {i}", "q": i % 7})
    yield store
    store.close()


def test_index_json_is_read_as_it_is_written(store):
    entries = json.loads(store.get("index.json"))["shards"]
    index = read_index(store)
    assert len(index) == len(entries) > 3
    for info, entry in zip(index, entries, strict=True):
        assert (info.basename, info.raw_bytes) == (
            entry["raw_data"]["basename"],
            entry["raw_data"]["bytes"],
        )
        assert (info.zip_basename, info.zip_bytes) == (
            entry["zip_data"]["basename"],
            entry["zip_data"]["bytes"],
        )
        assert info.raw_hashes == entry["raw_data"]["hashes"]
        assert info.zip_hashes == entry["zip_data"]["hashes"]
        assert info.num_samples == entry["samples"]
        assert list(info.column_names) == entry["column_names"]
    assert [info.shard_id for info in index] == list(range(len(entries)))


def entry(**changes):
    file = {"basename": "a.mds", "bytes": 100, "hashes": {}}
    return {
        "format": "mds", "version": 2, "compression": None, "samples": 1, "raw_data": file,
        "column_names": ["x"], "column_encodings": ["uint8"], "column_sizes": [1], **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"shards": [entry()], "more": entry(), "version": 2}, "outside the list"),
        ({"more": entry(), "shards": [entry()], "version": 2}, "shard 0"),
        ({"shards": [entry(more=entry())], "version": 2}, "shard 0"),
        ({"shards": [[entry()]], "version": 2}, "shard 0: not an object"),
        ({"shards": [0], "more": entry(), "version": 2}, "shard 0: not an object"),
        ({"shards": [entry(), {}], "version": 2}, "shard 1: format None"),
        ({"shards": [entry(), entry(samples=-1), entry()], "version": 2}, "shard 1: -1 samples"),
        ({"shards": [entry(samples=-1)], "version": 3}, "version 3 is not 2"),
        (entry(), "version None"),
        ([entry()], "version None"),
        ({"shards": [entry(raw_data={"basename": "\ud800", "bytes": 100})], "version": 2}, "JSON"),
    ],
)
def test_strange_json_is_refused(index, message):
    with pytest.raises(ShardError, match=message):
        parse_index(json.dumps(index).encode(), "index.json")


def test_the_last_of_two_lists_counts_or_is_refused():
    text = json.dumps({"shards": [entry()], "version": 2})
    doubled = text[:-1] + ', "shards": ' + json.dumps([entry(samples=2)]) + "}"
    with pytest.raises(ShardError, match="shard 0"):
        parse_index(doubled.encode(), "index.json")


def test_a_stored_index_is_used(store, tmp_path):
    index = read_index(store)
    write_index(store, index)
    corpus = open_corpus(str(tmp_path))
    assert corpus.shards.digest == index.digest
    assert corpus.read(2).num_samples == index[2].num_samples


def edit_json(tmp_path, change):
    path = tmp_path / "index.json"
    index = json.loads(path.read_text())
    change(index["shards"])
    path.write_text(json.dumps(index, sort_keys=True))


def test_a_stale_index_is_refused(store, tmp_path):
    write_index(store, read_index(store))

    def change(shards):  # of the same length
        hashes = shards[3]["zip_data"]["hashes"]
        hashes["xxh64"] = hashes["xxh64"][::-1]

    size = (tmp_path / "index.json").stat().st_size
    edit_json(tmp_path, change)
    assert (tmp_path / "index.json").stat().st_size == size
    with pytest.raises(ShardError, match="stale.*delete it"):
        open_corpus(str(tmp_path))
    (tmp_path / TABLE_NAME).unlink()
    open_corpus(str(tmp_path)).close()


def test_an_index_without_its_json_is_stale(store, tmp_path):
    write_index(store, read_index(store))
    (tmp_path / "index.json").unlink()
    with pytest.raises(ShardError, match="stale"):
        open_corpus(str(tmp_path))


def test_a_large_json_that_changed_in_the_middle_is_stale(tmp_path):
    store = open_store(str(tmp_path))
    entries = []
    for i in range(4000):
        file = {
            "basename": f"shard.{i:05}.mds",
            "bytes": 100 + i % 7,
            "hashes": {"xxh64": f"{i:016x}"},
        }
        entries.append(entry(raw_data=file))
    (tmp_path / "index.json").write_text(json.dumps({"shards": entries, "version": 2}))
    write_index(store, read_index(store))
    assert len(read_stored_index(store)) == 4000
    edit_json(
        tmp_path, lambda shards: [s["raw_data"]["hashes"].update(xxh64="f" * 16) for s in shards]
    )
    with pytest.raises(ShardError, match="stale"):
        read_stored_index(store)


def test_options_other_than_those_it_was_made_with_are_refused(store, tmp_path):
    write_index(store, read_index(store), {"columns": ["id"], "dtype": "uint16"})
    assert read_stored_index(store) is not None
    assert read_stored_index(store, {"dtype": "uint16", "columns": ("id",)}) is not None
    for options in ({}, {"columns": ["id"]}, {"columns": ["q"], "dtype": "uint16"}):
        with pytest.raises(ShardError, match="made with the options .*leave them out"):
            open_corpus([Stream(str(tmp_path), options=options)])


def rewrite(tmp_path, change):
    """Let `change` edit the stored table (columns as lists) and its metadata."""
    table = pq.read_table(tmp_path / TABLE_NAME)
    columns, metadata = table.to_pydict(), dict(table.schema.metadata)
    change(columns, metadata)
    arrays = {}
    for name, values in columns.items():
        has_type = name in table.schema.names and not isinstance(values, pa.Array)
        arrays[name] = pa.array(values, table.schema.field(name).type) if has_type else values
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), sink)
    (tmp_path / TABLE_NAME).write_bytes(sink.getvalue())


def put(name, value, row=1):
    return lambda columns, _: columns[name].__setitem__(row, value)


def kinds(change):
    def edit(_, metadata):
        found = json.loads(metadata[b"moot.kinds"])
        change(found)
        metadata[b"moot.kinds"] = json.dumps(found).encode()

    return edit


LIES = {
    "dots": (put("name", "a/../../x"), "leaves the corpus"),
    "parent": (put("name", "../x"), "leaves the corpus"),
    "here": (put("name", "./x"), "leaves the corpus"),
    "only dots": (put("name", ".."), "leaves the corpus"),
    "absolute": (put("name", "/etc/passwd"), "leaves the corpus"),
    "empty": (put("name", ""), "leaves the corpus"),
    "empty last": (put("name", "", -1), "leaves the corpus"),
    "two slashes": (put("name", "a//x"), "leaves the corpus"),
    "a folder": (put("name", "a/"), "leaves the corpus"),
    "backslash": (put("name", "..\\x"), "leaves the corpus"),
    "nul": (put("name", "a\0b"), "leaves the corpus"),
    "last": (put("name", "a/..", -1), "leaves the corpus"),
    "suffix": (kinds(lambda k: k[0].__setitem__(2, "/../../../x")), "leaves the corpus"),
    "suffix of no text": (kinds(lambda k: k[0].__setitem__(2, 7)), "suffix 7"),
    "negative size": (put("stored_bytes", -1), "shard 1: -1 bytes"),
    "size": (put("raw_bytes", 2**33), "not the size of a shard"),
    "samples": (put("samples", 10**9), "samples cannot be in it"),
    "negative samples": (put("samples", -1), "shard 1: -1 samples"),
    "digests": (put("digests", b"\0"), "bytes of digests"),
    "kind": (put("kind", 7), "no kind"),
    "huge kind": (put("kind", 65536), "no kind"),
    "null": (put("name", None), "missing"),
    "pkl": (kinds(lambda k: k[0][6].__setitem__(0, "pkl")), "'pkl' is refused"),
    "encoding": (kinds(lambda k: k[0][6].__setitem__(0, "uint7")), "unknown encoding"),
    "column size": (kinds(lambda k: k[0][7].__setitem__(1, 5)), "the index says 5"),
    "columns": (kinds(lambda k: k[0].__setitem__(5, ["id"])), "do not match"),
    "columns of no list": (kinds(lambda k: k[0].__setitem__(5, "id")), "no lists"),
    "named twice": (kinds(lambda k: k[0].__setitem__(5, ["id", "id"])), "named twice"),
    "format": (kinds(lambda k: k[0].__setitem__(0, "os")), "unknown format"),
    "compression": (kinds(lambda k: k[0].__setitem__(1, "rot13")), "unknown compression"),
    "no compression": (kinds(lambda k: k[0].__setitem__(1, None)), "suffix"),
    "hashes": (kinds(lambda k: k[0].__setitem__(3, [["xxh64", -8]])), "hashes must be"),
    "hash lists": (kinds(lambda k: k[0].__setitem__(3, [7])), "hashes must be"),
    "no kinds": (kinds(lambda k: k.clear()), "no kind"),
    "kinds of another shape": (kinds(lambda k: k[0].pop()), "cannot be read"),
    "kinds of no text": (lambda _, m: m.update({b"moot.kinds": b"["}), "cannot be read"),
    "version": (lambda _, m: m.update({b"moot.version": b"2"}), "version '2' is not 1"),
    "no metadata": (lambda _, m: m.clear(), "version '' is not 1"),
    "digest": (lambda _, m: m.update({b"moot.digest": b"00"}), "digest"),
    "no source": (lambda _, m: m.pop(b"moot.source"), "what it was made of"),
    "other samples": (put("samples", 1), "digest"),
    "other name": (put("name", "other"), "digest"),
    "missing column": (lambda c, _: c.pop("digests"), "not those of an index"),
    "more columns": (lambda c, _: c.update(more=c["samples"]), "not those of an index"),
    "other type": (lambda c, _: c.update(samples=pa.array(map(str, c["samples"]))), "not those of"),
    "start": (lambda c, _: c.update(start=pa.array([-1] * len(c["kind"]))), "no part of a file"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_table_is_refused(store, tmp_path, lie):
    write_index(store, read_index(store))
    change, message = LIES[lie]
    rewrite(tmp_path, change)
    with pytest.raises(ShardError, match=message):
        open_corpus(str(tmp_path))


def test_a_rewritten_table_is_as_good(store, tmp_path):
    write_index(store, read_index(store))
    rewrite(tmp_path, lambda columns, metadata: None)
    assert read_stored_index(store).digest == read_index(store).digest


@given(st.data())
def test_a_damaged_table_is_refused_or_the_same(tmp_path_factory, data):
    store = open_store(str(tmp_path_factory.mktemp("damaged")))
    index = ShardIndex(many(50))
    write_index(store, index)
    whole = bytearray(store.get(TABLE_NAME))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= 1 << data.draw(st.integers(0, 7))
    store.put(TABLE_NAME, bytes(whole))
    try:
        found = read_stored_index(store)
    except ShardError:
        return
    assert list(found) == list(index)


def test_bytes_that_are_no_index_are_refused():
    whole = pack_index(ShardIndex(many(5)))
    for data in (b"", b"x" * 100, whole[:200], whole[: len(whole) // 2]):
        with pytest.raises(ShardError, match="sent"):
            unpack_index(data, "sent")
