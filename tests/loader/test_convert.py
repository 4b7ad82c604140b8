# SPDX-License-Identifier: Apache-2.0
"""Conversion: what comes out, resuming after kill -9, verification, and what is refused."""

import contextlib
import gzip
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moot.loader.convert import ConvertConfig, convert, index_corpus
from moot.loader.corpus import open_corpus
from moot.loader.errors import ConfigError, MootError, ShardError, StorageError
from moot.loader.shards import MDSWriter, find_shards, merge_index, read_shard
from moot.loader.shards.tokenise import Tokeniser
from moot.loader.storage import open_store
from servers import FaultServer, moto_s3

COLUMNS = {
    "tokens": "ndarray:uint16", "fixed": "ndarray:int32:3", "id": "str", "n": "int", "h": "float16",
    "raw": "bytes", "note": "json",
}  # fmt: skip


def sample(i, length):
    return {
        "tokens": (np.arange(length) * 31 + i).astype(np.uint16),
        "fixed": np.arange(i, i + 3, dtype=np.int32),
        "id": f"doc \u00e9 {i}",
        "n": i * 7 - 3,
        "h": i % 100 / 2,
        "raw": bytes(i % 5),
        "note": {"i": i},
    }


def samples(num, seed=0):
    lengths = np.random.default_rng(seed).integers(1, 700, num).tolist()
    return [sample(i, length) for i, length in enumerate(lengths)]


def write_mds(folder, rows, columns=COLUMNS, **settings):
    settings = {"size_limit": 30_000, **settings}
    with MDSWriter(open_store(str(folder)), columns, **settings) as writer:
        for row in rows:
            writer.write({name: row[name] for name in columns})
    return str(folder)


def files(folder):
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def read_all(url, columns=COLUMNS, format_name=None, options=None):
    store = open_store(str(url), options)
    rows = []
    for info in find_shards(store, None, format_name):
        shard = read_shard(store, info)
        values = {name: shard.values(name, np.arange(info.num_samples)) for name in columns}
        rows += [{name: values[name][i] for name in columns} for i in range(info.num_samples)]
    return rows


def assert_same(found, expected, columns=COLUMNS):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in columns:
            assert np.array_equal(one[name], other[name]), name
            if isinstance(other[name], np.ndarray):
                assert one[name].dtype == other[name].dtype


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """600 samples as MDS in some 15 shards; returns the URL and the samples."""
    rows = samples(600)
    return write_mds(tmp_path_factory.mktemp("source") / "c", rows, compression="gz:1"), rows


def config(**settings):
    return ConvertConfig(**{"size_limit": 50_000, "workers": 3, **settings})


# ---- what comes out


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compression": None, "hashes": ("sha1", "xxh3_128")},
        {"compression": "br:1", "size_limit": 4000},
        {"compression": "snappy", "size_limit": 1 << 26},
    ],
)
def test_mds_to_mds_keeps_every_sample(corpus, tmp_path, settings):
    url, rows = corpus
    done = convert(url, str(tmp_path / "d"), config(**settings))
    assert (done.samples, done.dropped, done.is_verified) == (600, 0, True)
    assert_same(read_all(tmp_path / "d"), rows)
    stored = [data for name, data in files(tmp_path / "d").items() if "/shard." in name]
    assert (done.files, done.stored_bytes) == (len(stored), sum(map(len, stored)))
    index = json.loads((tmp_path / "d/index.json").read_text())
    hashes = sorted(settings.get("hashes", ("xxh64",)))
    assert all(entry["hashes"] == hashes for entry in index["shards"])


def test_a_size_limit_of_the_source_copies_its_shards(tmp_path):
    url = write_mds(tmp_path / "s", samples(200), compression="zstd:3")
    convert(url, str(tmp_path / "d"), config(size_limit=30_000))
    one, other = (json.loads((tmp_path / x / "index.json").read_text()) for x in "sd")
    hashes = [[entry["zip_data"]["hashes"] for entry in index["shards"]] for index in (one, other)]
    assert hashes[0] == hashes[1]


def test_workers_do_not_change_a_byte(corpus, tmp_path):
    for workers in (1, 2, 7):
        convert(corpus[0], str(tmp_path / f"{workers}"), config(workers=workers))
    assert files(tmp_path / "1") == files(tmp_path / "2") == files(tmp_path / "7")


def test_arrays_of_any_shape_and_type_survive_mds_to_mds(tmp_path):
    arrays = [np.zeros((2, 3)), np.arange(5, dtype=np.int8), np.ones((1, 1, 300), np.float16)]
    rows = [{"a": array, "b": array.astype(np.float32)} for array in arrays]
    columns = {"a": "ndarray", "b": "ndarray:float32"}
    url = write_mds(tmp_path / "s", rows, columns)
    convert(url, str(tmp_path / "d"), config())
    found = read_all(tmp_path / "d", columns)
    assert [row["a"].shape for row in found] == [array.shape for array in arrays]
    assert_same(found, rows, columns)


def test_columns_are_chosen(corpus, tmp_path):
    convert(corpus[0], str(tmp_path / "d"), config(columns=("id", "tokens")))
    [kind] = {info.column_names for info in find_shards(open_store(str(tmp_path / "d")))}
    assert kind == ("id", "tokens")
    assert_same(read_all(tmp_path / "d", ("id", "tokens")), corpus[1], ("id", "tokens"))


def test_progress_counts_samples(corpus, tmp_path):
    said = []
    convert(corpus[0], str(tmp_path / "d"), config(), lambda *what: said.append(what[:3]))
    for stage in ("convert", "verify"):
        counts = [done for name, done, _ in said if name == stage]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, 600)
    assert {total for _, _, total in said} == {600}


def test_memory_holds_a_few_shards_for_each_worker(tmp_path):
    row = {"tokens": np.random.default_rng(0).integers(0, 9000, 1 << 15).astype(np.uint16)}
    for num in (16, 1280):  # the first one imports
        source, columns = tmp_path / f"s{num}", {"tokens": "ndarray:uint16"}
        url = write_mds(source, [row] * num, columns, size_limit=1 << 20)
        tracemalloc.start()
        try:
            convert(url, str(tmp_path / f"d{num}"), config(size_limit=1 << 20, workers=2))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # Stored, decompressed, joined twice, compressed, and a copy on its way out; and the 8 MiB that
    # a store takes for an object of unknown size, such as an index.
    assert peak < 2 * (8 + 8) * (1 << 20) < 1280 * row["tokens"].nbytes / 2


# ---- other stores


def test_from_http_to_s3(corpus, tmp_path):
    served = {f"c/{name}": data for name, data in files(corpus[0]).items()}
    with FaultServer(served) as server, moto_s3("bucket") as options:
        done = convert(f"{server.url}/c", "s3://bucket/made/here", config(), target_options=options)
        assert done.samples == 600
        again = convert(
            f"{server.url}/c", "s3://bucket/made/here", config(), target_options=options
        )
        assert again.was_complete
        assert_same(read_all("s3://bucket/made/here", options=options), corpus[1])
        convert(corpus[0], str(tmp_path / "d"), config())
        assert open_store("s3://bucket/made/here", options).list() == sorted(files(tmp_path / "d"))


# ---- resuming


SERVER = """
import json, os, sys
from moot.loader.convert import ConvertConfig, convert, index_corpus
from moot.loader.corpus import open_corpus
for line in sys.stdin:
    source, target, settings = json.loads(line)
    child = os.fork()  # this process has not touched a store: its children may
    if child == 0:
        convert(source, target, ConvertConfig(**settings))
        os._exit(0)
    print(child, flush=True)
    status = os.waitpid(child, 0)[1]
    print(status, flush=True)
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Run a conversion in a process of its own, killed after `kill_after_s`; tells if it ended."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=tmp_path_factory.mktemp("runner"),
    )  # fmt: skip

    def run(source, target, settings, kill_after_s=None):
        server.stdin.write(json.dumps([source, str(target), settings]) + "\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(child, signal.SIGKILL)
        return int(server.stdout.readline()) == 0

    yield run
    server.stdin.close()
    server.wait(60)
    server.stdout.close()


@pytest.mark.parametrize("to", ["mds", "parquet"])
def test_twenty_kills_at_random_points_leave_the_bytes_of_an_undisturbed_run(
    corpus, tmp_path, runner, to
):
    settings = {"size_limit": 30_000, "workers": 2, "to": to}
    assert runner(corpus[0], tmp_path / "warm", settings)
    started = time.monotonic()
    assert runner(corpus[0], tmp_path / "whole", settings)
    whole_s = time.monotonic() - started
    expected = files(tmp_path / "whole")
    rng, kills, target = random.Random(0), 0, 0
    while kills < 20:
        target += 1
        while not runner(corpus[0], tmp_path / f"d{target}", settings, rng.uniform(0, whole_s)):
            kills += 1
        assert files(tmp_path / f"d{target}") == expected
        assert not (tmp_path / f"d{target}/convert").exists()


class Stopped(Exception):
    """Stands for whatever ends a run."""


def stop_after(num):
    def progress(stage, done, total, detail):
        if stage == "convert" and done >= num:
            raise Stopped

    return progress


def test_a_resumed_run_writes_only_what_is_missing(corpus, tmp_path):
    target = tmp_path / "d"
    with pytest.raises(Stopped):
        convert(corpus[0], str(target), config(workers=1), stop_after(200))
    kept = {name: os.stat(target / name) for name in files(target) if "/shard." in name}
    marks = list((target / "convert").iterdir())
    said = []
    done = convert(corpus[0], str(target), config(), lambda *what: said.append(what))
    assert done.kept_parts == len(marks) > 1
    assert said[0][1] >= 200
    whole = {f"{mark.stem}/" for mark in marks}
    for name, before in kept.items():
        if name.startswith(tuple(whole)):
            assert os.stat(target / name).st_ino == before.st_ino
    convert(corpus[0], str(tmp_path / "whole"), config())
    assert files(target) == files(tmp_path / "whole")


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"samples": 3}', '{"files": 3}'])
def test_a_broken_mark_means_that_its_part_is_written_again(corpus, tmp_path, text):
    target = tmp_path / "d"
    with pytest.raises(Stopped):
        convert(corpus[0], str(target), config(), stop_after(200))
    (target / "convert/00001.json").write_text(text)
    (target / "convert/odd.json").write_text("what is this")
    done = convert(corpus[0], str(target), config())
    assert done.samples == 600
    convert(corpus[0], str(tmp_path / "whole"), config())
    odd = {"convert/odd.json": b"what is this"}
    assert files(target) == {**odd, **files(tmp_path / "whole")}


@pytest.mark.parametrize("damage", ["missing", "short", "index"])
def test_a_kept_part_that_is_damaged_is_written_again(corpus, tmp_path, damage):
    target = tmp_path / "d"
    with pytest.raises(Stopped):
        convert(corpus[0], str(target), config(workers=1), stop_after(200))
    mark = sorted((target / "convert").iterdir())[0]
    shard = sorted((target / mark.stem).glob("shard.*"))[0]
    data = shard.read_bytes()
    (shard if damage != "index" else target / mark.stem / "index.json").unlink()
    if damage == "short":
        shard.write_bytes(data[:-1])
    convert(corpus[0], str(target), config())
    assert shard.read_bytes() == data
    assert_same(read_all(target), corpus[1])


def test_what_a_killed_run_was_writing_is_removed(corpus, tmp_path):
    target = tmp_path / "d"
    with pytest.raises(Stopped):
        convert(corpus[0], str(target), config(), stop_after(100))
    for name in ("00003/shard.00000.mds.zstd#1", "convert/00003.json#2", "convert.json#1"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes(b"cut sh")
    (target / "mine#1").write_bytes(b"not ours")
    convert(corpus[0], str(target), config())
    assert [name for name in files(target) if "#" in name] == ["mine#1"]


def test_a_complete_conversion_is_left_alone(corpus, tmp_path):
    first = convert(corpus[0], str(tmp_path / "d"), config())
    before = {name: os.stat(tmp_path / "d" / name).st_mtime_ns for name in files(tmp_path / "d")}
    second = convert(corpus[0], str(tmp_path / "d"), config(workers=1))
    assert second.was_complete
    assert (second.samples, second.files) == (first.samples, first.files)
    assert before == {n: os.stat(tmp_path / "d" / n).st_mtime_ns for n in files(tmp_path / "d")}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"compression": "gz"}, "compression 'zstd:3' -> 'gz'"),
        ({"size_limit": 50_001}, "size_limit 50000 -> 50001"),
        ({"columns": ("id",)}, "columns {.*} -> {'id': 'str'}"),
        ({"hashes": ()}, r"hashes \['xxh64'\] -> \[\]"),
        ({"drop_empty": True}, "drop_empty False -> True"),
    ],
)
def test_another_plan_is_refused_with_what_differs(corpus, tmp_path, changed, message):
    with pytest.raises(Stopped):
        convert(corpus[0], str(tmp_path / "d"), config(), stop_after(100))
    with pytest.raises(ConfigError, match=f"differs from this one \\({message}\\); .* --force"):
        convert(corpus[0], str(tmp_path / "d"), config(**changed))


def test_another_source_is_refused(corpus, tmp_path):
    with pytest.raises(Stopped):
        convert(corpus[0], str(tmp_path / "d"), config(), stop_after(100))
    other = write_mds(tmp_path / "s", samples(600, seed=1))
    with pytest.raises(ConfigError, match="source '.*' -> '.*'"):
        convert(other, str(tmp_path / "d"), config())


def test_force_starts_over_and_leaves_nothing_of_before(corpus, tmp_path):
    convert(corpus[0], str(tmp_path / "d"), config(size_limit=5000))
    convert(corpus[0], str(tmp_path / "d"), config(force=True, compression="gz"))
    convert(corpus[0], str(tmp_path / "fresh"), config(compression="gz"))
    assert files(tmp_path / "d") == files(tmp_path / "fresh")


def test_force_deletes_nothing_that_is_not_ours(corpus, tmp_path):
    convert(corpus[0], str(tmp_path / "d"), config())
    (tmp_path / "d/thesis.tex").write_text("years of work")
    before = files(tmp_path / "d")
    with pytest.raises(ConfigError, match="no conversion wrote, such as thesis.tex"):
        convert(corpus[0], str(tmp_path / "d"), config(force=True, compression=None))
    assert files(tmp_path / "d") == before


def test_no_index_before_all_is_written(corpus, tmp_path):
    with pytest.raises(Stopped):
        convert(corpus[0], str(tmp_path / "d"), config(), stop_after(100))
    assert not (tmp_path / "d/index.json").exists()


# ---- verification


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("hashes", [(), ("xxh64",)])
def test_verification_finds_a_flipped_bit_and_the_next_run_mends_it(corpus, tmp_path, hashes):
    target, settings = tmp_path / "d", {"compression": None, "hashes": hashes}

    def damage(stage, done, total, detail):
        if stage == "verify" and done == 0:
            flip(sorted((target / "00001").glob("shard.*"))[0])

    with pytest.raises(ShardError, match="verification failed: .*run the same command again"):
        convert(corpus[0], str(target), config(**settings), damage)
    assert not (target / "index.json").exists()
    done = convert(corpus[0], str(target), config(**settings))
    assert done.is_verified
    convert(corpus[0], str(tmp_path / "whole"), config(**settings))
    assert files(target) == files(tmp_path / "whole")


def test_without_verification_nothing_is_read_back(corpus, tmp_path):
    said = []
    done = convert(
        corpus[0], str(tmp_path / "d"), config(verify=False), lambda *what: said.append(what[0])
    )
    assert set(said) == {"convert"}
    assert not done.is_verified
    assert_same(read_all(tmp_path / "d"), corpus[1])


# ---- what is refused


def test_a_corrupt_shard_is_named_and_the_rest_is_kept(corpus, tmp_path):
    source = tmp_path / "s"
    write_mds(source, corpus[1], compression="gz:1")
    flip(source / "shard.00012.mds.gz")
    with pytest.raises(ShardError, match=r"shard.00012.mds.gz is corrupt"):
        convert(str(source), str(tmp_path / "d"), config(workers=1))
    assert not (tmp_path / "d/index.json").exists()
    assert list((tmp_path / "d/convert").iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "jsonl"}, "formats written are mds, parquet"),
        ({"compression": "lz4"}, "unknown compression 'lz4'"),
        ({"compression": "zstd:99"}, "the level of zstd is 1 to 22"),
        ({"hashes": ("crc7",)}, "unknown hash 'crc7'"),
        ({"size_limit": 100}, "size_limit=100: must lie in"),
        ({"size_limit": 1 << 40}, "size_limit=1099511627776: must lie in"),
        ({"workers": 0}, "workers=0: must lie in"),
        ({"columns": ("id", "id")}, "a column is named twice"),
        ({"columns": ()}, "columns is empty"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ("token",)}, "has no column 'token'; did you mean 'tokens'"),
        ({"format": "tar"}, "unknown format 'tar'"),
        ({"options": {"dtype": "uint16"}}, "is MDS, which says all by itself; leave out dtype"),
    ],
)
def test_settings_that_do_not_fit_the_source_are_refused(corpus, tmp_path, settings, message):
    with pytest.raises(MootError, match=message):
        convert(corpus[0], str(tmp_path / "d"), config(**settings))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("below", ["", "/inside"])
def test_source_and_destination_may_not_overlap(corpus, below):
    with pytest.raises(ConfigError, match="lie in each other"):
        convert(corpus[0], corpus[0] + below, config())
    with pytest.raises(ConfigError, match="lie in each other"):
        convert(corpus[0] + below, corpus[0], config())


def test_a_place_with_another_corpus_is_refused(corpus, tmp_path):
    url = write_mds(tmp_path / "d", samples(3))
    before = files(url)
    for force in (False, True):
        with pytest.raises(ConfigError, match="holds a corpus, no conversion; choose an empty"):
            convert(corpus[0], url, config(force=force))
    assert files(url) == before


def test_a_place_with_other_things_is_refused(corpus, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds 1 objects, such as thesis.tex"):
        convert(corpus[0], str(tmp_path / "d"), config())


def test_a_broken_plan_file_is_refused(corpus, tmp_path):
    (tmp_path / "d").mkdir()
    for text in ("{", "[]", '{"plan": 3, "state": "writing"}', '{"plan": {}, "state": "odd"}'):
        (tmp_path / "d/convert.json").write_text(text)
        with pytest.raises(StorageError, match="convert.json is not what a conversion writes"):
            convert(corpus[0], str(tmp_path / "d"), config())


def test_a_source_without_shards_or_samples_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match="holds no shards of any format that is read"):
        convert(str(tmp_path / "s"), str(tmp_path / "d"), config())
    MDSWriter(open_store(str(tmp_path / "e")), {"id": "str"}).close()
    with pytest.raises(ShardError, match="holds no samples"):
        convert(str(tmp_path / "e"), str(tmp_path / "d"), config())


def test_shards_of_different_columns_are_refused_until_some_are_chosen(tmp_path):
    rows = samples(5)
    write_mds(tmp_path / "s/a", rows, {"id": "str", "n": "int"})
    write_mds(tmp_path / "s/b", rows, {"id": "str", "h": "float16"})
    merge_index(open_store(str(tmp_path / "s")), ["a", "b"])
    with pytest.raises(ConfigError, match="choose with --columns among those that all have: id"):
        convert(str(tmp_path / "s"), str(tmp_path / "d"), config())
    done = convert(str(tmp_path / "s"), str(tmp_path / "d"), config(columns=("id",)))
    assert done.samples == 10


# ---- Parquet


def test_mds_to_parquet_and_back(corpus, tmp_path):
    url, rows = corpus
    names = [name for name in COLUMNS if name != "note"]
    convert(url, str(tmp_path / "p"), config(to="parquet", columns=tuple(names)))
    found = pq.read_table(sorted((tmp_path / "p").rglob("*.parquet"))).to_pylist()
    assert_same([{n: _array(r[n], rows[0][n]) for n in names} for r in found], rows, names)
    convert(str(tmp_path / "p"), str(tmp_path / "d"), config())
    back = read_all(tmp_path / "d", names)
    assert_same(back, rows, names)


def _array(value, like):
    return np.array(value, like.dtype) if isinstance(like, np.ndarray) else value


def test_parquet_refuses_what_has_no_place_in_it(tmp_path):
    rows = [{"a": np.zeros((2, 3), np.float32), "id": "x"}]
    url = write_mds(tmp_path / "s", rows, {"a": "ndarray:float32:2,3", "id": "str"})
    with pytest.raises(ConfigError, match="column 'a': .* leave it out with --columns"):
        convert(url, str(tmp_path / "d"), config(to="parquet"))
    url = write_mds(tmp_path / "t", rows, {"a": "ndarray:float32", "id": "str"})
    with pytest.raises(ShardError, match="an array of 2 axes cannot be in Parquet"):
        convert(url, str(tmp_path / "d"), config(to="parquet"))


def write_parquet(folder, arrays, **columns):
    Path(folder).mkdir()
    table = pa.table({"tokens": pa.array(arrays, pa.list_(pa.uint16())), **columns})
    pq.write_table(table, Path(folder) / "a.parquet", row_group_size=4)
    return str(folder)


def test_empty_arrays_stop_mds_unless_they_are_dropped(tmp_path):
    url = write_parquet(tmp_path / "s", [[1, 2], [3], [], [4, 5], [], [6]], n=range(6))
    with pytest.raises(ShardError, match="sample 2: column 'tokens' is empty, .*--drop-empty"):
        convert(url, str(tmp_path / "d"), config(workers=1))
    done = convert(url, str(tmp_path / "e"), config(drop_empty=True))
    assert (done.samples, done.dropped) == (4, 2)
    assert [row["n"] for row in read_all(tmp_path / "e", ("n",))] == [0, 1, 3, 5]
    done = convert(url, str(tmp_path / "p"), config(to="parquet"))
    assert (done.samples, done.dropped) == (6, 0)


# ---- other formats


LINES = [{"text": f"line {i} \u00e9 " * (i % 9 + 1), "n": i, "ids": [i, i + 1]} for i in range(300)]


def write_lines(folder, rows=LINES, name="a.jsonl"):
    Path(folder).mkdir(exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name.endswith(".gz"):
        data = gzip.compress(data)
    (Path(folder) / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("to", ["mds", "parquet"])
def test_json_lines_are_indexed_and_converted(tmp_path, name, to):
    url = write_lines(tmp_path / "s", name=name)
    with pytest.raises(ShardError, match="make it once by the command `moot index"):
        convert(url, str(tmp_path / "d"), config(to=to))
    made = index_corpus(url)
    assert (made.format, made.samples, made.url.rpartition("/")[2]) == (
        "jsonl", 300, "index.jsonl.json",
    )  # fmt: skip
    convert(url, str(tmp_path / "text"), config(to=to))
    expected = [{"text": row["text"]} for row in LINES]
    assert_same(read_all(tmp_path / "text", ("text",), to), expected, ("text",))
    columns = ("text", "n:int64", "ids:ndarray:uint16")
    convert(url, str(tmp_path / "all"), config(to=to, columns=columns))
    found = read_all(tmp_path / "all", ("text", "n", "ids"), to)
    assert_same(found, [{**row, "ids": np.array(row["ids"], np.uint16)} for row in LINES], ("ids",))
    assert [row["n"] for row in found] == list(range(300))


def test_lines_without_a_field_are_named(tmp_path):
    url = write_lines(tmp_path / "s", [*LINES[:5], {"n": 3}])
    index_corpus(url, "jsonl")
    with pytest.raises(ShardError, match="text"):
        convert(url, str(tmp_path / "d"), config())


def test_raw_tokens_are_converted(tmp_path):
    tokens = np.arange(10_000, dtype=np.uint16)
    (tmp_path / "s").mkdir()
    for name in ("train.bin", "val.bin"):
        tokens.tofile(tmp_path / "s" / name)
    options = {"files": "train.bin", "sample_tokens": "2048"}
    convert(str(tmp_path / "s"), str(tmp_path / "d"), config(options=options))
    found = read_all(tmp_path / "d", ("tokens",))
    assert [row["tokens"].size for row in found] == [2048] * 4 + [10_000 - 4 * 2048]
    assert np.array_equal(np.concatenate([row["tokens"] for row in found]), tokens)
    with pytest.raises(MootError, match="no option 'dtyp'; did you mean 'dtype'"):
        convert(str(tmp_path / "s"), str(tmp_path / "e"), config(options={"dtyp": "uint16"}))


def write_megatron(folder, documents):
    Path(folder).mkdir()
    lengths = np.array([len(tokens) for tokens in documents], "<i4")
    pointers = np.concatenate(([0], np.cumsum(lengths[:-1].astype("<i8") * 4)))
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, len(documents), len(documents) + 1)
    index = head + lengths.tobytes() + pointers.astype("<i8").tobytes()
    index += np.arange(len(documents) + 1, dtype="<i8").tobytes()
    (Path(folder) / "c.idx").write_bytes(index)
    np.concatenate(documents).astype("<i4").tofile(Path(folder) / "c.bin")
    return str(folder)


@pytest.mark.parametrize("to", ["mds", "parquet"])
def test_megatron_is_converted(tmp_path, to):
    documents = [np.arange(n, n + 1 + n % 50, dtype=np.int32) for n in range(400)]
    url = write_megatron(tmp_path / "s", documents)
    convert(url, str(tmp_path / "d"), config(to=to))
    found = read_all(tmp_path / "d", ("tokens",), to)
    assert_same(found, [{"tokens": tokens} for tokens in documents], ("tokens",))


def test_files_of_parquet_with_other_columns_need_those_named(tmp_path):
    write_parquet(tmp_path / "s", [[1], [2]], n=[0, 1])
    other = pa.table({"tokens": pa.array([[3]], pa.list_(pa.uint16())), "odd": [{"a": 1}]})
    pq.write_table(other, tmp_path / "s/b.parquet")
    with pytest.raises(ShardError, match="columns"):
        convert(str(tmp_path / "s"), str(tmp_path / "d"), config())
    done = convert(str(tmp_path / "s"), str(tmp_path / "d"), config(columns=("tokens",)))
    assert done.samples == 3


def test_an_encoding_that_is_not_the_sources_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="column 'n' is int, not uint8"):
        convert(corpus[0], str(tmp_path / "d"), config(columns=("n:uint8",)))


@pytest.mark.parametrize("to", ["mds", "parquet"])
def test_the_index_of_a_corpus_is_one_table_that_readers_take(corpus, tmp_path, to):
    names = ("id", "n")
    convert(corpus[0], str(tmp_path / "d"), config(to=to, columns=names))
    found = find_shards(open_store(str(tmp_path / "d")), None, to)
    made = index_corpus(str(tmp_path / "d"))
    assert made.url.endswith("/moot.index.parquet")
    assert (made.format, made.shards, made.samples) == (to, len(found), 600)
    with contextlib.closing(open_corpus(str(tmp_path / "d"))) as opened:
        assert opened.shards.digest == found.digest
    # A table beside the shards is none of them: converting it and forcing it anew both work.
    assert convert(str(tmp_path / "d"), str(tmp_path / "e"), config()).samples == 600
    convert(corpus[0], str(tmp_path / "d"), config(to=to, columns=names, force=True))
    assert not (tmp_path / "d/moot.index.parquet").exists()


def test_nothing_to_index_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match="holds no shards of any format that is read"):
        index_corpus(str(tmp_path / "s"))
    with pytest.raises(ConfigError, match="holds no shards of format jsonl"):
        index_corpus(write_mds(tmp_path / "c", samples(3)), "jsonl")


# ---- text to tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer.json of whole words; returns its path and the ids of a text."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "<|end|>", "line", *map(str, range(300)), "\u00e9"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return str(path), lambda text: [words.index(word) for word in text.split()]


@pytest.mark.parametrize("to", ["mds", "parquet"])
def test_text_becomes_tokens(tmp_path, tokenizer, to):
    path, ids = tokenizer
    url = write_lines(tmp_path / "s")
    index_corpus(url)
    settings = {"to": to, "tokenizer": path, "eod": "<|end|>"}
    done = convert(url, str(tmp_path / "d"), config(**settings))
    assert done.is_verified
    [kind] = {i.column_names for i in find_shards(open_store(str(tmp_path / "d")), None, to)}
    assert kind == ("tokens",)
    expected = [{"tokens": np.array([*ids(row["text"]), 1], np.uint16)} for row in LINES]
    assert_same(read_all(tmp_path / "d", ("tokens",), to), expected, ("tokens",))
    settings["columns"] = ("n:int64", "text", "tokens")
    convert(url, str(tmp_path / "e"), config(**settings))
    found = read_all(tmp_path / "e", ("n", "text", "tokens"), to)
    assert_same(found, [{**a, **b} for a, b in zip(LINES, expected, strict=True)], ("tokens",))
    assert [(row["n"], row["text"]) for row in found] == [(r["n"], r["text"]) for r in LINES]


def test_tokens_of_mds_keep_the_other_columns_and_the_text_column_is_named(
    corpus, tmp_path, tokenizer
):
    columns = ("id", "tokens")
    settings = {"tokenizer": tokenizer[0], "text_column": "id", "columns": columns}
    convert(corpus[0], str(tmp_path / "d"), config(**settings))
    found = read_all(tmp_path / "d", columns)
    assert [row["id"] for row in found] == [row["id"] for row in corpus[1]]
    ids = tokenizer[1]
    assert found[7]["tokens"].tolist() == [0, ids("\u00e9")[0], ids("7")[0]]


def test_empty_texts_have_no_tokens(tmp_path, tokenizer):
    url = write_lines(tmp_path / "s", [{"text": "line 1"}, {"text": " "}, {"text": "line 2"}])
    index_corpus(url)
    with pytest.raises(ShardError, match="sample 1: column 'tokens' is empty"):
        convert(url, str(tmp_path / "d"), config(tokenizer=tokenizer[0]))
    done = convert(url, str(tmp_path / "e"), config(tokenizer=tokenizer[0], drop_empty=True))
    assert (done.samples, done.dropped) == (2, 1)


def test_what_does_not_fit_a_tokenizer_is_refused(corpus, tmp_path, tokenizer):
    path = tokenizer[0]
    (tmp_path / "bad.json").write_text('{"model": 3}')
    for settings, message in [
        ({"tokenizer": path}, "has no column 'text'"),
        ({"tokenizer": path, "text_column": "n", "columns": ("id",)},
         "column 'n' is int; only str is text"),
        ({"tokenizer": path, "text_column": "id"}, "has tokens already; name the columns to keep"),
        ({"tokenizer": str(tmp_path / "bad.json"), "text_column": "id", "columns": ("n",)},
         "bad.json is no tokenizer.json"),
        ({"tokenizer": path, "text_column": "id", "columns": ("n",), "eod": "<eos>"},
         "the tokenizer has no token '<eos>'"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            convert(corpus[0], str(tmp_path / "d"), config(**settings))
    with pytest.raises(ConfigError, match="name a tokenizer too"):
        config(eod="<|end|>")


def test_another_tokenizer_is_another_plan(corpus, tmp_path, tokenizer):
    settings = {"tokenizer": tokenizer[0], "text_column": "id", "columns": ("n",)}
    with pytest.raises(Stopped):
        convert(corpus[0], str(tmp_path / "d"), config(**settings), stop_after(100))
    with pytest.raises(ConfigError, match=r"\(tokenizer '\w+' -> '\w+'\)"):
        convert(corpus[0], str(tmp_path / "d"), config(**settings, eod="<|end|>"))


# ---- the command line


@pytest.fixture
def moot(capsys, monkeypatch):
    """Run the command line; returns (exit status, stdout, stderr)."""
    from moot.trainer.cli import main

    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return exit_info.value.code or 0, printed.out, printed.err

    return call


def test_the_command_converts_says_what_and_continues(corpus, tmp_path, moot):
    target = tmp_path / "d"
    options = ("--size-limit", "50KB", "--compression", "gz:1", "--hashes", "xxh64, sha1")
    with pytest.raises(Stopped):
        settings = {"compression": "gz:1", "hashes": ("xxh64", "sha1")}
        convert(corpus[0], str(target), config(**settings), stop_after(300))
    code, out, err = moot("convert", corpus[0], target, *options)
    assert code == 0
    assert "600 samples in" in out
    assert "kept from an earlier run:" in out
    assert "source and destination: equal, sample by sample" in out
    assert "convert" in err
    assert "verify" in err
    code, out, _ = moot("convert", corpus[0], target, *options)
    assert (code, "is there already" in out) == (0, True)
    assert_same(read_all(target), corpus[1])


def test_the_command_takes_columns_none_and_no_verify(corpus, tmp_path, moot):
    options = ("--columns", "id, n", "--compression", "none", "--no-verify", "--workers", "1")
    code, out, _ = moot("convert", corpus[0], tmp_path / "d", *options)
    assert code == 0
    assert "not compared (--no-verify)" in out
    assert_same(read_all(tmp_path / "d", ("id", "n")), corpus[1], ("id", "n"))
    assert all(name.endswith((".mds", ".json")) for name in files(tmp_path / "d"))


def test_the_command_refuses_in_one_line(corpus, tmp_path, moot):
    code, _, err = moot("convert", corpus[0], tmp_path / "d", "--columns", "tokns")
    assert code == 1
    assert err.count("\n") == 1
    assert "has no column 'tokns'; did you mean 'tokens'?" in err


def test_the_index_command(tmp_path, moot):
    url = write_lines(tmp_path / "s")
    code, out, _ = moot("index", url)
    assert (code, "300 samples in 1 shards of jsonl" in out) == (0, True)
    code, _, err = moot("index", tmp_path / "nowhere")
    assert (code, err.count("\n")) == (1, 1)


def test_the_index_command_stores_labels(tmp_path, moot):
    rows = [{"tokens": np.arange(1 + i % 7, dtype=np.uint16), "q": i % 3} for i in range(200)]
    url = write_mds(tmp_path / "c", rows, {"tokens": "ndarray:uint16", "q": "uint8"})
    code, out, _ = moot("index", url, "--labels", "q")
    assert (code, "labels.parquet" in out) == (0, True)
    table = pq.read_table(tmp_path / "c/labels.parquet")
    assert table["q"].to_pylist() == [row["q"] for row in rows]
    assert table["length"].to_pylist() == [row["tokens"].size for row in rows]
    code, out, _ = moot("index", url, "--labels", "none")
    assert code == 0
    assert "q" not in pq.read_table(tmp_path / "c/labels.parquet").column_names
    code, _, err = moot("index", url, "--labels", "p")
    assert (code, err.count("\n")) == (1, 1)


def test_the_index_command_counts_the_tokens_of_texts(tmp_path, moot, tokenizer):
    path, ids = tokenizer
    url = write_lines(tmp_path / "s")
    told = ("--length-of", "text", "--tokenizer", path, "--eod", "<|end|>")
    code, _, _ = moot("index", url, "--labels", "none", *told)
    assert code == 0
    digest = Tokeniser.load(path, eod="<|end|>").digest
    corpus = open_corpus(url)
    shards = range(len(corpus.shards))
    found = np.concatenate([corpus.stored_lengths(i, "text", digest) for i in shards])
    assert found.tolist() == [len(ids(row["text"])) + 1 for row in LINES]
    corpus.close()
    for wrong in (told, ("--labels", "none", *told[2:])):
        code, _, err = moot("index", url, *wrong)
        assert (code, err.count("\n")) == (1, 1)
