# SPDX-License-Identifier: Apache-2.0
"""The writers: encoded cells, compression, resuming, parts written side by side, Parquet."""

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moot.loader.errors import ShardError, StorageError
from moot.loader.shards import MDSWriter, ParquetWriter, find_shards, merge_index, read_shard
from moot.loader.shards.encodings import make_encoder
from moot.loader.storage import open_store

needs_mosaic = pytest.mark.skipif(
    importlib.util.find_spec("streaming") is None,
    reason="mosaicml-streaming is not installed (extra `mosaic`)",
)
COLUMNS = {
    "tokens": "ndarray:uint16", "fixed": "ndarray:int32:3", "id": "str", "n": "int", "h": "float16",
    "raw": "bytes",
}  # fmt: skip
FAMILIES = [None, "zstd", "zstd:7", "gz", "gz:1", "bz2", "br:5", "snappy"]


def samples(num, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "tokens": rng.integers(0, 9000, int(length)).astype(np.uint16),
            "fixed": np.arange(i, i + 3, dtype=np.int32),
            "id": f"doc \u00e9 {i}",
            "n": i * 7 - 3,
            "h": i / 2,
            "raw": bytes(i % 5),
        }
        for i, length in enumerate(rng.integers(1, 700, num))
    ]


def cells_of(rows, columns=COLUMNS):
    encoders = {name: make_encoder(text) for name, text in columns.items()}
    return {name: [encode(row[name]) for row in rows] for name, encode in encoders.items()}


def files(folder):
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_mds(folder, rows, columns=COLUMNS, **settings):
    with MDSWriter(open_store(str(folder)), columns, **settings) as writer:
        for row in rows:
            writer.write(row)
    return files(folder)


def read_all(url, columns=COLUMNS):
    store = open_store(str(url))
    rows = []
    for info in find_shards(store, None, "mds"):
        shard = read_shard(store, info)
        values = {name: shard.values(name, np.arange(info.num_samples)) for name in columns}
        rows += [{name: values[name][i] for name in columns} for i in range(info.num_samples)]
    return rows


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            assert np.array_equal(one[name], value), name


# ---- MDS


@pytest.mark.parametrize("cut", [1, 7, 50, 200])
@pytest.mark.parametrize("columns", [COLUMNS, {"n": "int", "h": "float16"}, {"raw": "bytes"}])
def test_encoded_cells_give_the_same_files_as_values(tmp_path, cut, columns):
    rows = [{name: row[name] for name in columns} for row in samples(200)]
    settings = {"compression": "zstd:3", "hashes": ("xxh64", "sha1"), "size_limit": 1500}
    expected = write_mds(tmp_path / "values", rows, columns, **settings)
    with MDSWriter(open_store(str(tmp_path / "cells")), columns, **settings) as writer:
        for start in range(0, len(rows), cut):
            writer.write_encoded(cells_of(rows[start : start + cut], columns))
        assert writer.num_samples == 200
    assert files(tmp_path / "cells") == expected
    assert len(expected) > 2


def test_values_and_cells_may_alternate_and_large_ones_stand_alone(tmp_path):
    rows = [{"raw": bytes([i]) * (5000 if i % 9 == 0 else 10)} for i in range(60)]
    expected = write_mds(tmp_path / "values", rows, {"raw": "bytes"}, size_limit=1000)
    with MDSWriter(open_store(str(tmp_path / "both")), {"raw": "bytes"}, size_limit=1000) as writer:
        writer.write_encoded({"raw": [row["raw"] for row in rows[:20]]})
        for row in rows[20:30]:
            writer.write(row)
        writer.write_encoded({"raw": []})
        writer.write_encoded({"raw": [memoryview(row["raw"]) for row in rows[30:]]})
    assert files(tmp_path / "both") == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"n": [b"12345678"]}, "sample 0: missing columns: id; unknown columns: none"),
        ({"n": [b"1234567"], "id": [b""]}, "sample 0, column 'n' .int.: 8 bytes are needed, not 7"),
        ({"n": [b"12345678"], "id": []}, "column 'n' has 1 cells, another has 0"),
    ],
)
def test_cells_that_do_not_fit_are_refused(tmp_path, cells, message):
    writer = MDSWriter(open_store(str(tmp_path)), {"n": "int", "id": "str"})
    with pytest.raises(ValueError, match=message):
        writer.write_encoded(cells)
    assert writer.num_samples == 0


@needs_mosaic
@pytest.mark.parametrize("compression", FAMILIES)
def test_mosaicml_reads_every_compression(streaming, tmp_path, compression):
    from streaming.base.compression import decompress
    from streaming.base.format import reader_from_json
    from streaming.base.hashing import get_hash

    rows = samples(90)
    settings = {"compression": compression, "hashes": ["sha256", "xxh3_64"], "size_limit": 20_000}
    write_mds(tmp_path / "ours", rows, **settings)
    assert_same(read_all(tmp_path / "ours"), rows)
    found = []
    for entry in json.loads((tmp_path / "ours/index.json").read_text())["shards"]:
        reader = reader_from_json(str(tmp_path / "ours"), None, entry)
        stored = entry["zip_data"] or entry["raw_data"]
        data = (tmp_path / "ours" / stored["basename"]).read_bytes()
        assert {name: get_hash(name, data) for name in stored["hashes"]} == stored["hashes"]
        raw = tmp_path / "ours" / entry["raw_data"]["basename"]
        raw.write_bytes(decompress(compression, data))
        found += [reader.get_item(i) for i in range(reader.size)]
    assert_same(found, rows)


# ---- resuming


def cut_short(folder, rows, **settings):
    """Write, and stop as a killed process does: no close."""
    writer = MDSWriter(open_store(str(folder)), COLUMNS, resume=True, **settings)
    for row in rows:
        writer.write(row)


@pytest.mark.parametrize("num", [0, 1, 40, 41, 199, 200])
def test_a_resumed_writer_gives_the_files_of_an_undisturbed_one(tmp_path, num):
    rows, settings = samples(200), {"compression": "gz", "size_limit": 9000}
    expected = write_mds(tmp_path / "whole", rows, **settings)
    cut_short(tmp_path / "cut", rows[:num], **settings)
    with MDSWriter(open_store(str(tmp_path / "cut")), COLUMNS, resume=True, **settings) as writer:
        assert writer.num_samples <= num
        for row in rows[writer.num_samples :]:
            writer.write(row)
    assert files(tmp_path / "cut") == expected


def test_a_kept_shard_is_verified_and_written_again_if_damaged(tmp_path):
    rows, settings = samples(200), {"size_limit": 9000}
    expected = write_mds(tmp_path / "whole", rows, **settings)
    cut_short(tmp_path / "cut", rows, **settings)
    damaged = tmp_path / "cut/shard.00002.mds"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with MDSWriter(open_store(str(tmp_path / "cut")), COLUMNS, resume=True, **settings) as writer:
        kept = find_shards(open_store(str(tmp_path / "whole"))).samples[:2].sum()
        assert writer.num_samples == kept
        for row in rows[writer.num_samples :]:
            writer.write(row)
    assert files(tmp_path / "cut") == expected


def test_a_writer_that_had_ended_resumes_with_nothing_to_do(tmp_path):
    rows = samples(50)
    expected = write_mds(tmp_path, rows, size_limit=9000)
    with MDSWriter(open_store(str(tmp_path)), COLUMNS, resume=True, size_limit=9000) as writer:
        assert writer.num_samples == 50
    assert files(tmp_path) == expected


@pytest.mark.parametrize(
    "changed", [{"size_limit": 9001}, {"compression": "zstd"}, {"hashes": ("sha1",)}]
)
def test_resuming_with_other_settings_is_refused(tmp_path, changed):
    cut_short(tmp_path, samples(50), size_limit=9000)
    settings = {"size_limit": 9000, "resume": True, **changed}
    with pytest.raises(StorageError, match="index.partial.json is of a writer with other columns"):
        MDSWriter(open_store(str(tmp_path)), COLUMNS, **settings)


def test_a_broken_journal_is_named(tmp_path):
    (tmp_path / "index.partial.json").write_text("{")
    with pytest.raises(ShardError, match=r"index.partial.json is no list of shards .*; delete it"):
        MDSWriter(open_store(str(tmp_path)), COLUMNS, resume=True)


# ---- parts side by side


def test_parts_written_by_threads_are_one_corpus(tmp_path):
    rows = samples(400)
    store = open_store(str(tmp_path))
    parts = [f"{i:05}" for i in range(4)]

    def write_part(i):
        settings = {"compression": "zstd", "size_limit": 9000}
        with MDSWriter(store.child(parts[i]), COLUMNS, **settings) as writer:
            for row in rows[100 * i : 100 * i + 100]:
                writer.write(row)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_part, range(4)))
    assert merge_index(store, parts) == 400
    assert_same(read_all(tmp_path), rows)
    with pytest.raises(StorageError, match="holds a corpus already"):
        merge_index(store, parts)


PROCESS = """
import sys
import numpy as np
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
part = int(sys.argv[2])
with MDSWriter(open_store(sys.argv[1]).child(f"{part}"), {"t": "ndarray:uint16"}) as writer:
    for i in range(50):
        writer.write({"t": np.full(part + 1, i, np.uint16)})
"""


def test_parts_written_by_processes_are_one_corpus(tmp_path):
    code = ["-c", PROCESS, str(tmp_path / "c")]
    running = [
        subprocess.Popen([sys.executable, *code, str(part)], cwd=tmp_path) for part in range(3)
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert merge_index(open_store(str(tmp_path / "c")), ["0", "1", "2"]) == 150
    found = read_all(tmp_path / "c", {"t": ""})
    assert [len(row["t"]) for row in found] == [1] * 50 + [2] * 50 + [3] * 50


@needs_mosaic
def test_merged_index_is_the_one_mosaicml_merges(streaming, tmp_path):
    from streaming.base.util import merge_index as merge_theirs

    rows = samples(120)
    for part in ("a", "b"):
        write_mds(tmp_path / part, rows, compression="zstd", size_limit=9000)
    merge_theirs([str(tmp_path / part / "index.json") for part in ("a", "b")], str(tmp_path))
    theirs = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").unlink()
    merge_index(open_store(str(tmp_path)), ["a", "b"])
    ours = json.loads((tmp_path / "index.json").read_text())
    assert ours == theirs
    assert ours["shards"][-1]["zip_data"]["basename"].startswith("b/shard.")


def test_merging_a_part_without_index_names_it(tmp_path):
    with pytest.raises(StorageError, match="part7/index.json"):
        merge_index(open_store(str(tmp_path)), ["part7"])
    assert files(tmp_path) == {}


# ---- Parquet


def write_parquet(folder, rows, columns=COLUMNS, **settings):
    with ParquetWriter(open_store(str(folder)), columns, **settings) as writer:
        for row in rows:
            writer.write(row)
    return sorted(Path(folder).glob("*.parquet"))


@pytest.mark.parametrize("compression", [None, "zstd:3", "gz", "br:4", "snappy"])
def test_parquet_holds_what_was_written(tmp_path, compression):
    rows = samples(150)
    paths = write_parquet(tmp_path, rows, compression=compression, row_group_bytes=9000)
    assert [path.name for path in paths] == ["shard.00000.parquet"]
    table = pq.read_table(paths[0])
    assert table.schema.field("tokens").type.value_type == pa.uint16()
    assert table.schema.field("fixed").type.list_size == 3
    assert table.schema.field("id").type == pa.string()
    found = table.to_pylist()
    assert [set(row) for row in found] == [set(COLUMNS)] * 150
    assert_same(found, rows)


def test_parquet_cuts_row_groups_and_files_at_their_sizes(tmp_path):
    rows = [{"tokens": np.arange(500, dtype=np.uint16)} for _ in range(100)]
    columns = {"tokens": "ndarray:uint16"}
    paths = write_parquet(tmp_path, rows, columns, row_group_bytes=10_200, size_limit=50_000)
    metas = [pq.ParquetFile(path).metadata for path in paths]
    groups = [meta.row_group(i).num_rows for meta in metas for i in range(meta.num_row_groups)]
    assert groups == [10] * 10
    assert [meta.num_rows for meta in metas] == [40, 40, 20]


def test_parquet_of_cells_is_parquet_of_values(tmp_path):
    rows = samples(150)
    [expected] = write_parquet(tmp_path / "values", rows, row_group_bytes=9000)
    store = open_store(str(tmp_path / "cells"))
    with ParquetWriter(store, COLUMNS, row_group_bytes=9000) as writer:
        writer.write_encoded(cells_of(rows[:70]))
        writer.write_encoded(cells_of(rows[70:]))
    assert (tmp_path / "cells/shard.00000.parquet").read_bytes() == expected.read_bytes()


def test_parquet_keeps_empty_arrays(tmp_path):
    with ParquetWriter(open_store(str(tmp_path)), {"t": "ndarray:uint16"}) as writer:
        writer.write_encoded({"t": [b"\x04\x00", b"\x04\x01\x05\x00"]})
    assert pq.read_table(tmp_path)["t"].to_pylist() == [[], [5]]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"x": "ndarray"}, {}, "column 'x': 'ndarray' cannot be in Parquet"),
        ({"x": "ndarray:uint8:2,3"}, {}, "arrays need a type and one axis"),
        ({"x": "pil"}, {}, "'pil' is not written"),
        ({"x": "int"}, {"compression": "bz2"}, "Parquet has no compression 'bz2'"),
        ({"x": "int"}, {"row_group_bytes": 0}, "row_group_bytes 0 is not in 1"),
        ({"x": "int"}, {"size_limit": 2**31}, "size_limit 2147483648 is not in 1"),
    ],
)
def test_parquet_refuses_what_it_cannot_hold(tmp_path, columns, settings, message):
    with pytest.raises(ShardError, match=message):
        ParquetWriter(open_store(str(tmp_path)), columns, **settings)


def test_parquet_refuses_arrays_of_two_axes_and_texts_that_are_none(tmp_path):
    writer = ParquetWriter(open_store(str(tmp_path)), {"t": "ndarray:uint16", "id": "str"})
    writer.write({"t": np.zeros((2, 2), np.uint16), "id": "x"})
    with pytest.raises(ShardError, match="an array of 2 axes cannot be in Parquet"):
        writer.close()
    writer = ParquetWriter(open_store(str(tmp_path)), {"id": "str"})
    writer.write_encoded({"id": [b"\xff"]})
    with pytest.raises(ShardError, match="shard.00000.parquet: Invalid UTF8"):
        writer.close()


def test_parquet_writes_over_nothing_unless_told(tmp_path):
    rows = samples(3)
    write_parquet(tmp_path, rows)
    with pytest.raises(ShardError, match="is there already; choose an empty place"):
        write_parquet(tmp_path, rows)
    write_parquet(tmp_path, rows, replace=True)


def test_parquet_of_a_broken_run_is_not_published(tmp_path):
    with pytest.raises(RuntimeError), ParquetWriter(open_store(str(tmp_path)), COLUMNS) as writer:
        writer.write(samples(1)[0])
        raise RuntimeError("stop")
    assert files(tmp_path) == {}
