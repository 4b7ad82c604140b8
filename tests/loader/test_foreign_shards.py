# SPDX-License-Identifier: Apache-2.0
"""What is particular to Parquet, JSON lines, Megatron-LM's and raw token files; mostly bad ones."""

import io
import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.errors import ShardError, StorageError
from moot.loader.shards import Ask, find_shards, read_shard
from moot.loader.shards.jsonl_index import INDEX_NAME, index_jsonl
from moot.loader.storage import open_store
from servers import Answer, FaultServer
from shard_formats import documents, megatron_bytes


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path))
    yield store
    store.close()


def read_all(store, options=None, column="tokens"):
    """Every value of a column, shard after shard."""
    found = []
    for info in find_shards(store, options):
        shard = read_shard(store, info)
        found += shard.values(column, np.arange(shard.num_samples))
    return found


# ---- Parquet


def put_table(store, columns, name="a.parquet", **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    store.put(name, sink.getvalue())


@pytest.mark.parametrize(
    ("kind", "values", "encoding", "expected"),
    [
        (pa.string(), ["a", ""], "str", ["a", ""]),
        (pa.string_view(), ["a", "longer than twelve bytes"], "str", None),
        (pa.binary(), [b"\xff", b""], "bytes", None),
        (pa.large_binary(), [b"\xff", b""], "bytes", None),
        (pa.bool_(), [True, False], "uint8", [1, 0]),
        (pa.int8(), [-1, 2], "int8", None),
        (pa.uint64(), [2**64 - 1, 0], "uint64", None),
        (pa.float32(), [0.5, -1.0], "float32", None),
        (pa.float64(), [0.1, 1e300], "float64", None),
        (pa.list_(pa.int32()), [[1, -2], []], "ndarray:int32", None),
        (pa.large_list(pa.uint8()), [[], []], "ndarray:uint8", None),
        (pa.list_(pa.uint16(), 3), [[1, 2, 3], [4, 5, 6]], "ndarray:uint16", None),
        (pa.list_(pa.float32()), [[0.5], [1.0]], "ndarray:float32", None),
    ],
    ids=str,
)
def test_parquet_types(store, kind, values, encoding, expected):
    array = pa.array([values[0], *values, values[0]], kind).slice(1, 2)
    put_table(store, {"x": array})
    [info] = find_shards(store)
    assert info.column_encodings == (encoding,)
    found = [getattr(v, "tolist", lambda v=v: v)() for v in read_all(store, column="x")]
    assert found == (values if expected is None else expected)


def test_parquet_names_what_it_cannot_read(store):
    put_table(store, {"text": ["a"], "when": pa.array([0], pa.timestamp("s")), "n": [1]})
    [info] = find_shards(store)
    assert info.column_names == ("text", "n")
    with pytest.raises(ShardError, match=r"column 'when' is of type timestamp\[ms\]"):
        find_shards(store, {"columns": "text,when"})
    with pytest.raises(ShardError, match="column 'body' is not in the file"):
        find_shards(store, {"columns": ["body"]})
    put_table(store, {"when": pa.array([0], pa.timestamp("s"))})
    with pytest.raises(ShardError, match=r"no column holds texts.*when: timestamp"):
        find_shards(open_store(store.url))


@pytest.mark.parametrize(
    ("kind", "values", "sample"),
    [
        (pa.list_(pa.int32()), [[1], None, [2]], 1),
        (pa.list_(pa.int32()), [[1], [2, 3], [4, None]], 2),
        (pa.list_(pa.int32()), [[], [], [None]], 2),
        (pa.string(), ["a", "b", None], 2),
        (pa.int64(), [None, 1, 2], 0),
    ],
    ids=str,
)
def test_parquet_nulls_name_their_sample(store, kind, values, sample):
    put_table(store, {"x": pa.array([*values, *values], kind).slice(0, 3)})
    [info] = find_shards(store)
    with pytest.raises(ShardError, match=f"column 'x', sample {sample} is null; write an empty"):
        read_shard(store, info)


def test_parquet_nulls_far_into_a_shard(store):
    texts = ["text " * 100] * 5000
    texts[4321] = None
    put_table(store, {"text": texts})
    with pytest.raises(ShardError, match="sample 4321 is null"):
        read_all(store, column="text")


def test_parquet_files_must_be_alike(store):
    put_table(store, {"text": ["a"]}, "a.parquet")
    put_table(store, {"text": ["a"], "n": [1]}, "b.parquet")
    with pytest.raises(ShardError, match=r"b\.parquet has columns .*'n': 'int64'.* a\.parquet has"):
        find_shards(store)
    assert read_all(store, {"columns": "text"}, "text") == ["a", "a"]


def test_parquet_fetches_only_the_columns_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    big = [rng.bytes(1000) for _ in range(3000)]
    put_table(open_store(str(tmp_path)), {"big": big, "n": list(range(3000))}, row_group_size=1000)
    with FaultServer(tmp_path) as server:
        store = open_store(server.url)
        shards = find_shards(store, {"files": "a.parquet"})
        assert len(shards) == 3
        before, requests = store.counters()["bytes"], len(server.log)
        shard = read_shard(store, shards[1], Ask(columns=("n",)))
        assert shard.scalars("n").tolist() == list(range(1000, 2000))
        assert store.counters()["bytes"] - before < 20_000
        assert len(server.log) - requests == 1  # the footer is known, one column is one range
        store.close()


def test_parquet_errors_of_the_store_come_out(tmp_path):
    put_table(open_store(str(tmp_path)), {"n": list(range(10))})
    with FaultServer(tmp_path) as server:
        store = open_store(server.url)
        [info] = find_shards(store, {"files": ["a.parquet"]})
        server.plan(Answer(403), forever=True)
        with pytest.raises(StorageError, match="forbidden"):
            read_shard(store, info)
        store.close()


def test_parquet_file_that_was_replaced_is_found(store):
    put_table(store, {"n": list(range(10))})
    [info] = find_shards(store)
    put_table(store, {"n": list(range(1000))})
    with pytest.raises(ShardError, match=r"a\.parquet was replaced since its footer was read"):
        read_shard(store, info)
    find_shards(store)
    with pytest.raises(ShardError, match="has 1000 rows, the index states 10; the file was repl"):
        read_shard(store, info)


def test_parquet_footers_that_are_dropped_are_read_again(store, monkeypatch):
    monkeypatch.setattr("moot.loader.shards.parquet._KEPT_BYTES", 1)
    for i in range(5):
        put_table(store, {"n": [i, i]}, f"{i}.parquet")
    assert read_all(store, column="n") == [i for i in range(5) for _ in range(2)]


def test_parquet_bomb_stops_at_the_cap(store, monkeypatch):
    """A dictionary of one long text, referred to many times."""
    put_table(store, {"text": ["x" * 100_000] * 2000})
    [info] = find_shards(store)
    assert info.stored_bytes < 200_000
    monkeypatch.setattr("moot.loader.shards.parquet.MAX_COLUMN_BYTES", 10_000_000)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(ShardError, match="takes more than 10000000 bytes, refused"):
        read_shard(store, info)
    assert pa.default_memory_pool().max_memory() - before < 50_000_000


def test_parquet_text_that_outgrows_its_pages_is_whole(store):
    texts = [f"{i % 3}" * 5000 for i in range(500)]
    put_table(store, {"text": texts})
    assert read_all(store, column="text") == texts


@settings(max_examples=60)
@given(flips=st.sets(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=3))
def test_parquet_flipped_bytes_are_shard_errors(tmp_path_factory, flips):
    """Footers and pages; Arrow must not let anything else through."""
    store = open_store(str(tmp_path_factory.mktemp("flips")))
    put_table(store, {"text": ["abc", "de"] * 20, "t": [[1, 2], []] * 20})
    data = bytearray(store.get("a.parquet"))
    for at, mask in flips:
        data[-1 - at % len(data)] ^= mask
    store.put("a.parquet", bytes(data))
    try:
        for info in find_shards(store, {"columns": "text,t"}):
            shard = read_shard(store, info)
            shard.values("text", np.arange(shard.num_samples))
            shard.lengths("t")
    except ShardError as error:
        assert "a.parquet" in str(error)


def test_parquet_broken_footers_do_not_end_the_process(store):
    """Every byte of a footer in turn: `RowGroupMetaData.column` of pyarrow aborts on some."""
    put_table(store, {"t": [[1, 2], []] * 20})
    good = store.get("a.parquet")
    places = range(len(good) - 8 - int.from_bytes(good[-8:-4], "little"), len(good))
    for at in places:
        bad = bytearray(good)
        bad[at] ^= 1
        store.put("a.parquet", bytes(bad))
        try:
            read_all(open_store(store.url), column="t")
        except ShardError as error:
            assert "a.parquet" in str(error)


# ---- JSON lines


FIELDS = {"columns": "text,n:int64,t:ndarray:uint16"}
GOOD = b'{"text":"a","n":1,"t":[1]}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text":"a","n":1,"t":[1]', "JSON parse error"),
        (b'{"text":1,"n":1,"t":[1]}', "changed from string to number"),
        (b'{"text":"a","n":1.5,"t":[1]}', "int64, couldn't parse:1.5"),
        (b'{"text":"a","n":"1","t":[1]}', "changed from number to string"),
        (b'{"text":"a","n":1,"t":[70000]}', "uint16, couldn't parse:70000"),
        (b'{"text":"a","n":1,"t":3}', "changed from array to number"),
        (b'{"text":"\\ud800","n":1,"t":[1]}', "surrogate pair"),
        (b'["a"]', "not an object"),
        (b'{"text":"a","text":"b"}', "specified twice"),
        (GOOD.strip() * 2, "several objects, or a part of one"),
        (b"null", "not an object"),
        (b"}", "not an object"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("before", [0, 4, 700])
def test_bad_line_is_named(store, monkeypatch, line, reason, before):
    monkeypatch.setattr("moot.loader.shards.lines.PIECE_BYTES", 100)
    store.put("a.jsonl", GOOD * before + line + b"\n" + GOOD * 9)
    index_jsonl(store)
    [info] = find_shards(store, FIELDS)
    where = rf"a\.jsonl, sample {before} \(the line at byte {before * len(GOOD)}\)"
    with pytest.raises(ShardError, match=f"{where}: .*({reason})"):
        read_shard(store, info)


@pytest.mark.parametrize("line", [b'{"text":null,"n":1,"t":[1]}', b'{"n":1,"t":[1]}', b"{}"])
def test_missing_field_is_named(store, line):
    store.put("a.jsonl", GOOD * 3 + line + b"\n")
    index_jsonl(store)
    [info] = find_shards(store, FIELDS)
    with pytest.raises(ShardError, match=r"a\.jsonl, field 'text', sample 3 is null"):
        read_shard(store, info)


def test_text_that_is_not_utf8_is_named(store):
    store.put("a.jsonl", GOOD * 2 + b'{"text":"\xff","n":1,"t":[1]}\n')
    index_jsonl(store)
    shard = read_shard(store, find_shards(store, FIELDS)[0])
    assert shard.values("text", [0, 1]) == ["a", "a"]
    with pytest.raises(ShardError, match=r"a\.jsonl, sample 2, column 'text': 'utf-8' codec"):
        shard.values("text", [2])


def test_object_over_several_lines_is_named(store):
    store.put("a.jsonl", GOOD + b'{"text":"a",\n"n":1,"t":[]}\n')
    index_jsonl(store)
    with pytest.raises(ShardError, match=r"sample 1 \(the line at byte 27\): "):
        read_all(store, FIELDS)


def test_lines_of_any_length_and_end(store, monkeypatch):
    monkeypatch.setattr("moot.loader.shards.lines.PIECE_BYTES", 64)
    monkeypatch.setattr("moot.loader.shards.jsonl_index._BLOCK_BYTES", 50)
    texts = ["x" * size for size in (0, 1, 30, 500, 3, 10_000, 2)]
    lines = [json.dumps({"text": text}).encode() for text in texts]
    for ends in (b"\n", b"\r\n", b"\n\n\n", b"\n \t\r\n", b" \n  "):
        store.put("a.jsonl", b"\xef\xbb\xbf\n" + ends.join(lines))
        shards = index_jsonl(store, shard_bytes=600)
        assert len(shards) > 2
        assert shards.raw_bytes.sum() == len(store.get("a.jsonl"))
        assert read_all(store, column="text") == texts


def test_deep_nesting_does_not_crash(store):
    deep = b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b',"text":"a"}\n'
    store.put("a.jsonl", deep)
    index_jsonl(store)
    assert read_all(store, column="text") == ["a"]


def test_lines_without_an_index_say_what_makes_it(store):
    store.put("a.jsonl", GOOD)
    with pytest.raises(ShardError, match=r"a\.jsonl and no index\.jsonl\.json: .*`moot index file"):
        find_shards(store)


def test_lines_that_changed_are_found(store):
    store.put("a.jsonl", GOOD * 3)
    index_jsonl(store)
    store.put("a.jsonl", GOOD * 2 + GOOD.replace(b"a", b"b"))
    [info] = find_shards(store)
    with pytest.raises(ShardError, match=r"a\.jsonl is corrupt: xxh3_64 is"):
        read_shard(store, info)
    assert read_shard(store, info, Ask(verify="none")).unverified_bytes == 3 * len(GOOD)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_cut_archive_is_refused_by_the_index(store, ending):
    import gzip

    import zstandard

    data = b"".join(json.dumps({"text": d["text"]}).encode() + b"\n" for d in documents(500))
    packed = gzip.compress(data) if ending.endswith("gz") else zstandard.compress(data)
    for size in (len(packed) // 2, len(packed) - 1):
        store.put(f"a{ending}", packed[:size])
        with pytest.raises(ShardError, match=rf"a\{ending} does not decompress"):
            index_jsonl(store)


def test_files_of_the_index_can_be_chosen(store):
    store.put("a.jsonl", b'{"text":"a"}\n')
    store.put("b.jsonl", b'{"text":"b"}\n')
    index_jsonl(store)
    assert read_all(store, {"files": "b.jsonl"}, "text") == ["b"]
    with pytest.raises(ShardError, match=r"lists no file 'c\.jsonl'; index it first"):
        find_shards(store, {"files": ["c.jsonl"]})


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(version=2),
        lambda index: index.pop("files"),
        lambda index: index.update(files=3),
        lambda index: index["files"][0].update(name="../a.jsonl"),
        lambda index: index["files"][0].update(name=3),
        lambda index: index["files"][0]["shards"][0].pop(),
        *(
            lambda index, at=at, value=value: index["files"][0]["shards"][0].__setitem__(at, value)
            for at in range(5)
            for value in (-1, 1.5, None, True, 2**70, "x", "zz" * 8)
        ),
    ],
)
def test_malformed_index_of_lines_is_refused(store, change):
    store.put("a.jsonl", GOOD)
    index_jsonl(store)
    index = json.loads(store.get(INDEX_NAME))
    change(index)
    store.put(INDEX_NAME, json.dumps(index).encode())
    with pytest.raises(ShardError, match=r"index\.jsonl\.json|leaves the corpus"):
        find_shards(store)


def test_fields_of_unknown_encodings_are_refused(store):
    store.put("a.jsonl", GOOD)
    index_jsonl(store)
    for columns in ("text:json", "text:int", "n:float16", "t:ndarray", "t:ndarray:uint16:4:4"):
        with pytest.raises(ShardError, match="option 'columns', field '[tn].*': .* is not read"):
            find_shards(store, {"columns": columns})


# ---- Megatron-LM


def put_megatron(store, docs, dtype="<u2", code=8, sequences=1):
    data, index = megatron_bytes(docs, dtype, code, sequences)
    store.put("x.bin", data)
    store.put("x.idx", index)
    return bytearray(index)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000), sequences=st.integers(1, 4), run=st.integers(1, 3000),
    block=st.integers(1, 40),
)  # fmt: skip
def test_megatron_runs_are_all_documents(tmp_path_factory, seed, sequences, run, block):
    store = open_store(str(tmp_path_factory.mktemp("runs")))
    docs = documents(50, seed)
    docs[seed % 50]["tokens"] = np.empty(0, np.uint16)
    docs[-1]["tokens"] = np.empty(0, np.uint16)
    put_megatron(store, docs, sequences=sequences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moot.loader.shards.megatron.RUN_BYTES", run)
        patch.setattr("moot.loader.shards.megatron._BLOCK", block)
        shards = find_shards(store)
        found = read_all(store)
    assert [f.tolist() for f in found] == [d["tokens"].tolist() for d in docs]
    assert all(size >= run for size in shards.raw_bytes[:-1])
    assert len(shards) > 1 or run > 500


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2"), (9, "<u4"), (10, "<u8")],
)
def test_megatron_types(store, code, dtype):
    tokens = [np.arange(5), np.arange(100, 103)]
    put_megatron(store, [{"tokens": t} for t in tokens], dtype, code)
    [info] = find_shards(store)
    assert info.column_encodings == (f"ndarray:{np.dtype(dtype).name}",)
    assert [f.tolist() for f in read_all(store)] == [t.tolist() for t in tokens]


@pytest.mark.parametrize("code", [0, 6, 7, 11, 255])
def test_megatron_floats_and_unknown_types_are_refused(store, code):
    put_megatron(store, documents(3), "<u2", code)
    with pytest.raises(ShardError, match=rf"x\.idx: type {code} is none of integers"):
        find_shards(store)


def test_megatron_modes_of_sequences_are_passed_over(store):
    docs = documents(5)
    index = put_megatron(store, docs)
    store.put("x.idx", bytes(index) + bytes(5))
    assert [f.tolist() for f in read_all(store)] == [d["tokens"].tolist() for d in docs]


@pytest.mark.parametrize("value", [0, 1, 2, -1, 2**31 - 1, 2**62, -(2**63)])
def test_megatron_lying_numbers_are_refused(store, value):
    """Every number of the index in turn, in `find` or when the documents are read."""
    docs = documents(4)
    index = put_megatron(store, docs, sequences=2)
    places = [(9, "<q"), (18, "<q"), (26, "<q")]
    places += [(34 + 4 * i, "<i") for i in range(8)]
    places += [(34 + 32 + 8 * i, "<q") for i in range(8 + 5)]
    for at, kind in places:
        bad = index.copy()
        new = value if kind == "<q" else max(-(2**31), min(value, 2**31 - 1))
        if struct.unpack_from(kind, bad, at)[0] == new:
            continue
        struct.pack_into(kind, bad, at, new)
        store.put("x.idx", bytes(bad))
        try:
            found = [f.tolist() for f in read_all(store)]
        except ShardError as error:
            assert "x." in str(error)
        else:  # the cut between documents may move without a contradiction
            assert at >= 34 + 32 + 64
            assert sum(found, []) == [t for d in docs for t in d["tokens"].tolist()]


def test_megatron_data_of_another_length_is_refused(store):
    put_megatron(store, documents(4))
    data = store.get("x.bin")
    for bad in (data[:-2], data + b"xx", b""):
        store.put("x.bin", bad)
        with pytest.raises(ShardError, match=rf"x\.bin is {len(bad)} bytes, its index states"):
            find_shards(store)
    store.delete("x.bin")
    with pytest.raises(StorageError, match=r"x\.bin"):
        find_shards(store)


def test_index_of_megatron_that_is_none_is_refused(store):
    put_megatron(store, documents(4))
    for bad in (b"", b"TNTIDX\x00\x00" + bytes(60), bytes(100)):
        store.put("x.idx", bad)
        with pytest.raises(ShardError, match=r"x\.idx is (no|\d+ bytes, no) index"):
            find_shards(store)


# ---- raw tokens


def npy(array) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def test_train_and_val_are_not_mixed(store):
    store.put("train.bin", np.arange(10, dtype="<u2").tobytes())
    store.put("val.bin", np.arange(3, dtype="<u2").tobytes())
    with pytest.raises(ShardError, match=r"holds val\.bin beside train\.bin: .* files=train\.bin"):
        find_shards(store)
    assert [f.tolist() for f in read_all(store, {"files": "val.bin"})] == [[0, 1, 2]]


@settings(max_examples=20)
@given(num=st.integers(0, 300), length=st.integers(1, 50), run=st.integers(1, 200))
def test_raw_runs_are_all_tokens(tmp_path_factory, num, length, run):
    store = open_store(str(tmp_path_factory.mktemp("raw")))
    tokens = np.arange(num, dtype="<u2")
    store.put("a.bin", tokens.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moot.loader.shards.raw.RUN_BYTES", run)
        found = read_all(store, {"sample_tokens": length})
    assert [f.size for f in found[:-1]] == [length] * (-(-num // length) - 1 if num else 0)
    assert np.concatenate([np.empty(0, "<u2"), *found]).tolist() == tokens.tolist()


def test_rows_of_a_two_dimensional_array_are_samples(store):
    rows = np.arange(60, dtype=np.int32).reshape(12, 5)
    store.put("a.npy", npy(rows))
    assert [f.tolist() for f in read_all(store, {"sample_tokens": "7"})] == rows.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, np.float32), np.zeros(4, ">u2"), np.zeros((2, 3, 4), np.uint16),
        np.zeros((), np.uint16), np.asfortranarray(np.zeros((3, 4), np.uint16)), np.zeros(4, bool),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)  # fmt: skip
def test_arrays_that_are_no_tokens_are_refused(store, array):
    store.put("a.npy", npy(array))
    with pytest.raises(ShardError, match=r"a\.npy: an array of .* is not read; save integers"):
        find_shards(store)


def test_objects_in_an_array_are_refused(store):
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    store.put("a.npy", sink.getvalue())
    with pytest.raises(ShardError, match=r"a\.npy: an array of object"):
        find_shards(store)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"", lambda data: data[:8], lambda data: b"x" + data, lambda data: data[:-1],
        lambda data: data + b"x", lambda data: data.replace(b"(10,)", b"(-1,)"),
        lambda data: data.replace(b"(10,)", b"(1e1)"), lambda data: data[:6] + b"\x09" + data[7:],
        lambda data: data.replace(b"(10,)", b"(9**9999999,)")[: len(data)],
    ],
)  # fmt: skip
def test_malformed_arrays_are_refused(store, change):
    store.put("a.npy", change(npy(np.arange(10, dtype=np.uint16))))
    with pytest.raises(ShardError, match=r"a\.npy"):
        find_shards(store)


def test_header_of_llm_c_is_checked(store):
    head = np.zeros(256, "<i4")
    for words, message in (
        ((20240520, 1, 9), "its header states 9 tokens"),
        ((20240520, 2, 10), "version 2 of the header of llm.c is not 1"),
        ((20240801, 7, -1), "its header states -1 tokens"),
    ):
        head[:3] = words
        store.put("a.bin", head.tobytes() + bytes(20))
        with pytest.raises(ShardError, match=message):
            find_shards(store)
    head[:3] = 20240801, 7, 5
    store.put("a.bin", head.tobytes() + np.arange(5, dtype="<u4").tobytes())
    assert [f.tolist() for f in read_all(store)] == [[0, 1, 2, 3, 4]]


def test_options_of_raw_files_are_checked(store):
    store.put("a.bin", bytes(9))
    with pytest.raises(ShardError, match="9 bytes are no whole number of uint16; set the option"):
        find_shards(store)
    with pytest.raises(ShardError, match="option 'dtype' is 'float32'; known are uint8"):
        find_shards(store, {"dtype": "float32"})
    for length in (0, -1, "x", 1.5):
        with pytest.raises(ShardError, match="option 'sample_tokens' is .* whole number"):
            find_shards(store, {"dtype": "uint8", "sample_tokens": length})
    with pytest.raises(ShardError, match="option 'files' is 3; give texts"):
        find_shards(store, {"files": 3})
    with pytest.raises(ShardError, match="names something twice or nothing"):
        find_shards(store, {"files": "a.bin,a.bin"})
