# SPDX-License-Identifier: Apache-2.0
"""What every format must do: the same documents back, from any store, or a clear error."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.errors import MootError, ShardError
from moot.loader.shards import Ask, find_shards, gather, ranges, read_shard
from moot.loader.storage import open_store
from servers import FaultServer
from shard_formats import FORMATS, Format, documents

every_format = pytest.mark.parametrize("form", FORMATS, ids=str)
formats = pytest.mark.parametrize("form", [f for f in FORMATS if not f.is_variant], ids=str)
by_rows = pytest.mark.parametrize("form", [f for f in FORMATS if f.reads_rows], ids=str)


class Pool:
    """Counts what is allocated; memory comes filled, so that what was never read shows."""

    def __init__(self):
        self.sizes = []

    def __call__(self, num_bytes):
        self.sizes.append(num_bytes)
        return np.full(num_bytes, 0xAB, np.uint8)


def make(form: Format, folder, num=23, per_shard=5, seed=0, longest=60):
    """Write documents; return the store, its shards, and what the samples must be."""
    store = open_store(str(folder))
    docs = documents(num, seed, longest)
    form.write(store, docs, per_shard)
    return store, find_shards(store, form.options), form.cut(docs)


def check_shard(form: Format, shard, expected):
    assert shard.num_samples == len(expected)
    every = np.arange(len(expected))
    for name in form.columns:
        wanted = [sample[name] for sample in expected]
        check_values(shard.values(name, every), wanted)
        sizes = {"text": lambda t: len(t.encode()), "tokens": len, "n": lambda n: 1}[name]
        assert shard.lengths(name).tolist() == list(map(sizes, wanted))
        assert shard.lengths(name).dtype == np.uint32
    if "n" in form.columns:
        assert shard.scalars("n").tolist() == [sample["n"] for sample in expected]
    out = np.empty(sum(len(s["tokens"]) for s in expected), np.int64)
    take(shard, "tokens", every, out)
    assert np.array_equal(out, np.concatenate([s["tokens"] for s in expected]))


def check_values(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, np.ndarray):
            assert np.array_equal(one, other)
            assert not one.flags.writeable
        else:
            assert one == other


def take(shard, column, rows, out):
    lengths = shard.lengths(column)[rows].astype(np.int64)
    places = np.zeros(len(rows), np.int32), np.asarray(rows, np.int32)
    gather([shard], column, *places, np.zeros_like(lengths), lengths, out)


def spans(shards, expected):
    """Each shard with its part of the samples."""
    ends = np.cumsum(shards.samples)
    return [
        (info, expected[end - info.num_samples : end])
        for info, end in zip(shards, ends.tolist(), strict=True)
    ]


@every_format
@pytest.mark.parametrize(("num", "per_shard"), [(23, 5), (1, 1), (7, 100)])
def test_documents_come_back(form, tmp_path, num, per_shard):
    store, shards, expected = make(form, tmp_path, num, per_shard)
    assert shards.samples.sum() == len(expected)
    assert len(shards) > 1 or num == 1 or per_shard == 100
    for info, part in spans(shards, expected):
        assert info.format == form.format_name
        check_shard(form, read_shard(store, info), part)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 60), per_shard=st.integers(1, 20))
@every_format
def test_any_documents_come_back(form, tmp_path_factory, seed, num, per_shard):
    folder = tmp_path_factory.mktemp("any")
    store, shards, expected = make(form, folder, num, per_shard, seed, longest=300)
    for info, part in spans(shards, expected):
        check_shard(form, read_shard(store, info), part)


@formats
def test_equal_files_have_an_equal_index(form, tmp_path):
    first = make(form, tmp_path / "a")[1]
    assert first.digest == make(form, tmp_path / "b")[1].digest
    assert first.digest != make(form, tmp_path / "c", num=22)[1].digest


@formats
def test_memory_and_web_servers_serve_them_too(form, tmp_path):
    _, shards, expected = make(form, tmp_path / "corpus")
    memory = open_store(f"memory://{tmp_path.name}/corpus")
    form.write(memory, documents(23), 5)
    assert find_shards(memory, form.options).digest == shards.digest
    with FaultServer(tmp_path) as server:
        web = open_store(f"{server.url}/corpus")
        for info, part in spans(shards, expected):
            check_shard(form, read_shard(web, info), part)
            check_shard(form, read_shard(memory, info), part)
        web.close()
    for name in memory.list():
        memory.delete(name)


@formats
def test_big_buffers_come_from_the_caller(form, tmp_path):
    store, shards, expected = make(form, tmp_path, num=400, per_shard=400)
    pool = Pool()
    for info, part in spans(shards, expected):
        check_shard(form, read_shard(store, info, Ask(allocate=pool)), part)
    assert sum(pool.sizes) >= shards.stored_bytes.sum()


@formats
def test_only_the_columns_asked_for(form, tmp_path):
    store, shards, expected = make(form, tmp_path)
    info, part = spans(shards, expected)[0]
    shard = read_shard(store, info, Ask(columns=("tokens",)))
    check_values(shard.values("tokens", np.arange(len(part))), [s["tokens"] for s in part])
    if form.format_name not in ("mds", "raw", "megatron"):
        with pytest.raises(ShardError, match="column 'text' was not read; tokens were"):
            shard.lengths("text")
    with pytest.raises(ShardError, match="no column 'wrong'; it holds"):
        shard.lengths("wrong")
    if form.format_name != "mds":
        with pytest.raises(ShardError, match="no column 'wrong'; it holds"):
            read_shard(store, info, Ask(columns=("tokens", "wrong")))


@formats
def test_threads_may_read_at_once(form, tmp_path):
    store, shards, expected = make(form, tmp_path, num=60)
    parts, errors = spans(shards, expected), []

    def work(start):
        try:
            for info, part in parts[start:] + parts[:start]:
                check_shard(form, read_shard(store, info), part)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i % len(parts),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


# ---- some rows


@formats
@pytest.mark.parametrize("rows", [[], [0], [2, 3, 7], [1, 22], list(range(23))])
def test_rows_wanted_are_there(form, tmp_path, rows):
    store, shards, expected = make(form, tmp_path, num=60, per_shard=60)
    info, part = spans(shards, expected)[0]
    rows = np.array(rows, np.int64)
    for verify in ("strict", "ranges", "none"):
        shard = read_shard(store, info, Ask(rows=rows, verify=verify))
        for name in form.columns:
            check_values(shard.values(name, rows), [part[row][name] for row in rows])
            assert len(shard.lengths(name)) == info.num_samples
        out = np.empty(sum(len(part[row]["tokens"]) for row in rows), np.int64)
        take(shard, "tokens", rows, out)
        assert out.tolist() == [token for row in rows for token in part[row]["tokens"].tolist()]


@by_rows
def test_rows_not_read_have_no_elements(form, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "GAP_BYTES", 0)
    store, shards, expected = make(form, tmp_path, num=60, per_shard=60)
    info, part = spans(shards, expected)[0]
    shard = read_shard(store, info, Ask(rows=np.array([2, 9]), verify="ranges"))
    assert np.flatnonzero(shard.lengths("tokens")).tolist() == [2, 9]
    with pytest.raises(ShardError, match=r"sample 3: .*it has 0"):
        gather([shard], "tokens", np.zeros(1, np.int32), np.full(1, 3, np.int32),
               np.zeros(1, np.int64), np.ones(1, np.int64), np.empty(1, np.int64))  # fmt: skip
    if form.format_name == "mds":
        assert np.flatnonzero(shard.lengths("n")).tolist() == [2, 9]
        for column in form.columns:
            with pytest.raises(ShardError, match="sample 3 was not read"):
                shard.values(column, [2, 3])
        with pytest.raises(ShardError, match="sample 0 was not read"):
            shard.cells("text")


@by_rows
def test_far_rows_are_single_ranges(form, tmp_path, monkeypatch):
    """Of a long file only what is wanted, and near samples in one request."""
    monkeypatch.setattr(ranges, "GAP_BYTES", 1000)
    _, shards, expected = make(form, tmp_path / "corpus", 60, 10**6, longest=10_000)
    info, part = max(spans(shards, expected), key=lambda pair: pair[0].raw_bytes)
    last = info.num_samples - 1
    rows = np.array([0, 1, last - 1, last])
    with FaultServer(tmp_path) as server:
        web = open_store(f"{server.url}/corpus")
        shard = read_shard(web, info, Ask(rows=rows, verify="ranges"))
        check_values(shard.values("tokens", rows), [part[row]["tokens"] for row in rows])
        counters = web.counters()
        web.close()
        starts = [seen.range for seen in server.requests() if seen.path.endswith(info.basename)]
    assert 2 <= len(starts) <= 3  # two runs, and the table of MDS
    assert counters["bytes"] < info.raw_bytes / 5


@by_rows
@settings(max_examples=10)
@given(data=st.data())
def test_any_rows_by_any_gap(form, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("rows")
    store, shards, expected = make(form, folder, 50, 50, data.draw(st.integers(0, 99)))
    info, part = spans(shards, expected)[0]
    pick = st.sets(st.integers(0, info.num_samples - 1))
    rows = np.array(sorted(data.draw(pick)), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        gap = data.draw(st.sampled_from([0, 1, 40, 200, 10**6]))
        patch.setattr(ranges, "GAP_BYTES", gap)
        patch.setattr(ranges, "RANGE_BYTES", data.draw(st.sampled_from([7, 64, 1 << 23])))
        shard = read_shard(store, info, Ask(rows=rows, verify="ranges", hashes=hashes(store, info)))
    assert shard.unverified_bytes == 0
    for name in form.columns:
        check_values(shard.values(name, rows), [part[row][name] for row in rows])


def hashes(store, info):
    """xxh3_64 of every sample, as a file of labels holds them."""
    return read_shard(store, info, Ask(verify="none")).sample_hashes()


@by_rows
def test_hash_of_a_sample_names_it(form, tmp_path):
    store, shards, expected = make(form, tmp_path, num=60, per_shard=60)
    info = shards[0]
    known = hashes(store, info)
    rows = np.array([3, 8])
    good = read_shard(store, info, Ask(rows=rows, verify="ranges", hashes=known))
    assert good.unverified_bytes == 0
    known[8] ^= np.uint64(1)
    for wanted in (rows, None):
        with pytest.raises(ShardError, match="sample 8 is corrupt: its xxh3_64"):
            read_shard(store, info, Ask(rows=wanted, verify="ranges", hashes=known))
    with pytest.raises(ShardError, match="8 hashes of samples are known, there is no one for"):
        read_shard(store, info, Ask(rows=rows, verify="ranges", hashes=known[:8]))
    assert read_shard(store, info, Ask(rows=rows, verify="ranges")).unverified_bytes > 0


@formats
def test_what_is_not_verified_is_counted(form, tmp_path):
    store, shards, _ = make(form, tmp_path)
    for info in shards:
        strict = read_shard(store, info).unverified_bytes
        unverified = read_shard(store, info, Ask(verify="none")).unverified_bytes
        if info.format == "parquet":  # sizes are estimates, checksums not told of
            assert 0 < strict == unverified <= info.stored_bytes
            continue
        assert strict == (0 if form.is_hashed else info.stored_bytes)
        assert unverified == info.stored_bytes


@formats
def test_rows_that_do_not_ascend_are_refused(form, tmp_path):
    store, shards, _ = make(form, tmp_path)
    for rows in ([3, 2], [0, 0], [-1], [10**9], [[0]]):
        with pytest.raises(ShardError, match=r"rows must ascend within the \d+ samples"):
            read_shard(store, shards[0], Ask(rows=np.array(rows)))


# ---- what is broken


def shard_file(store, info):
    return info.stored_name, store.get(info.stored_name)


@every_format
def test_cut_file_is_named(form, tmp_path):
    store, shards, _ = make(form, tmp_path)
    info = shards[len(shards) - 1]
    name, data = shard_file(store, info)
    is_plain = form.name in ("raw", "raw-uint32", "llm.c")  # without a header, or cut inside it
    for size in (0, 1, 9, len(data) // 2, len(data) - 1):
        store.put(name, data[:size])
        fresh = open_store(str(tmp_path))
        with pytest.raises(MootError, match=name):
            read_shard(fresh, info)
        if form.format_name == "jsonl" or is_plain:
            continue  # their index is not made of the file, or any length is right
        with pytest.raises(MootError, match=name):
            for shard in find_shards(fresh, form.options):
                read_shard(fresh, shard)


@every_format
def test_flipped_bytes_are_found_or_never_crash(form, tmp_path):
    store, shards, _ = make(form, tmp_path)
    info = shards[0]
    name, data = shard_file(store, info)
    end = info.start + info.stored_bytes
    places = np.unique(np.linspace(info.start, end - 1, 60).astype(int))
    for at in places.tolist():
        bad = bytearray(data)
        bad[at] ^= 1 + at % 255
        store.put(name, bytes(bad))
        try:
            shard = read_shard(store, info)
            for column in form.columns:
                shard.values(column, np.arange(info.num_samples))
        except ShardError as error:
            assert name in str(error)
        else:
            is_page = form.format_name == "parquet"  # heads of pages have no checksum
            assert not form.is_hashed or is_page, at


@formats
def test_lying_index_is_found(form, tmp_path):
    store, shards, _ = make(form, tmp_path, num=23, per_shard=23)
    info = shards[0]
    for difference in (-1, 1, 1000):
        samples = max(0, info.num_samples + difference)
        lies = [dataclasses.replace(info, num_samples=samples)]
        if form.format_name != "parquet":  # where it is a hint, no more
            raw_bytes = max(0, info.raw_bytes + difference)
            lies.append(dataclasses.replace(info, raw_bytes=raw_bytes))
        for lie in lies:
            with pytest.raises(ShardError, match=info.stored_name.rpartition(".")[0]):
                read_shard(store, lie)


@formats
def test_missing_file_is_named(form, tmp_path):
    store, shards, _ = make(form, tmp_path)
    store.delete(shards[0].stored_name)
    with pytest.raises(MootError, match=shards[0].stored_name):
        read_shard(open_store(str(tmp_path)), shards[0])


@formats
def test_unknown_option_is_refused(form, tmp_path):
    store, _, _ = make(form, tmp_path)
    if form.format_name == "mds":
        return
    with pytest.raises(ShardError, match="no option 'filez'; did you mean 'files'"):
        find_shards(store, {**form.options, "filez": "x"})


@pytest.mark.parametrize("name", ["../a.parquet", "/a.parquet", "a//b.parquet", "x\\y.parquet"])
def test_names_that_leave_the_corpus_are_refused(tmp_path, name):
    store = open_store(str(tmp_path))
    for ending in (".parquet", ".bin", ".idx", ".jsonl"):
        with pytest.raises(ShardError, match="leaves the corpus; it is refused"):
            find_shards(store, {"files": [name.replace(".parquet", ending)]})


def test_empty_folder_has_no_shards(tmp_path):
    store = open_store(str(tmp_path))
    store.put("README.md", b"")
    assert find_shards(store) is None
    with pytest.raises(ShardError, match="unknown format 'tar'; known are mds, jsonl"):
        find_shards(store, None, "tar")


def test_web_server_without_an_index_needs_names(tmp_path):
    form = next(form for form in FORMATS if form.name == "parquet")
    store, shards, _ = make(form, tmp_path)
    with FaultServer(tmp_path) as server:
        web = open_store(server.url)
        with pytest.raises(ShardError, match="cannot be listed.* name the files by the option"):
            find_shards(web)
        found = find_shards(web, {"files": "a.parquet,b/c.parquet"})
        assert found.digest == shards.digest
        web.close()
