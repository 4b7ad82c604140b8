# SPDX-License-Identifier: Apache-2.0
"""A corpus of several streams: whose shard is whose, what is asked of the server, who reads it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moot.loader.corpus import Share, Stream, open_corpus
from moot.loader.errors import ConfigError, MootError, ShardError, StorageError
from moot.loader.shards import MDSWriter
from moot.loader.shards.index_json import read_index
from moot.loader.shards.index_table import write_index
from moot.loader.storage import ForbiddenError, open_store
from servers import Answer, FaultServer


def write(folder, num, columns=None, size_limit=400):
    columns = columns or {"id": "str", "q": "uint8"}
    with MDSWriter(open_store(str(folder)), columns, size_limit=size_limit) as writer:
        for i in range(num):
            writer.write({"id": f"{folder.name} {i}", "q": i % 7})
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three streams: a, b, c."""
    folder = tmp_path_factory.mktemp("streams")
    for name, num in (("a", 40), ("b", 1), ("c", 25)):
        write(folder / name, num)
    return folder


def ids_of(corpus, shard_ids):
    shards = ((i, corpus.read(i)) for i in shard_ids)
    return [text for i, shard in shards for text in shard.values("id", range(shard.num_samples))]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
def test_the_shards_of_all_streams_stand_in_a_row(folder, names):
    corpus = open_corpus([Stream(str(folder / name)) for name in names])
    sizes = {"a": 40, "b": 1, "c": 25}
    expected = [f"{name} {i}" for name in names for i in range(sizes[name])]
    assert ids_of(corpus, range(len(corpus.shards))) == expected
    assert corpus.samples_per_stream.tolist() == [sizes[name] for name in names]
    assert corpus.num_samples == len(expected)
    assert [info.shard_id for info in corpus.shards] == list(range(len(corpus.shards)))
    for stream_id, name in enumerate(names):
        first, stop = corpus.first_shard[stream_id : stream_id + 2].tolist()
        assert {corpus.stream_of(i) for i in range(first, stop)} == {stream_id}
        assert ids_of(corpus, range(first, stop)) == [f"{name} {i}" for i in range(sizes[name])]
    shard, row = corpus.locate(np.arange(corpus.num_samples))
    assert np.array_equal(corpus.first_sample[shard] + row, np.arange(corpus.num_samples))
    corpus.close()


def test_weights_are_kept_as_they_are_given(folder):
    streams = [Stream(str(folder / "a"), repeat=0.5), Stream(str(folder / "b"), choose=7)]
    corpus = open_corpus(streams)
    assert corpus.streams == tuple(streams)
    assert "1 more" in corpus.url


def test_streams_must_agree_in_a_column(folder, tmp_path):
    write(tmp_path / "wide", 3, {"id": "str", "q": "int16"})
    streams = [Stream(str(folder / "a")), Stream(str(tmp_path / "wide"))]
    corpus = open_corpus(streams)
    assert corpus.require("id") == "str"
    with pytest.raises(ShardError, match="wide: column 'q' is uint8 in one shard .*a.*int16"):
        corpus.require("q")


def test_a_stream_without_the_column_is_named(folder, tmp_path):
    with MDSWriter(open_store(str(tmp_path / "other")), {"text": "str"}) as writer:
        writer.write({"text": "x"})
    corpus = open_corpus([Stream(str(folder / "a")), Stream(str(tmp_path / "other"))])
    with pytest.raises(ShardError, match="other: no column 'id'; the corpus holds text"):
        corpus.require("id")


def test_the_stream_that_is_not_there_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty is empty; write a corpus there"):
        open_corpus([Stream(str(folder / "a")), Stream(str(tmp_path / "empty"))])


def test_no_stream_is_no_corpus():
    with pytest.raises(ConfigError, match="at least one stream"):
        open_corpus([])


def test_streams_of_a_bucket_share_a_client(folder):
    with FaultServer(folder.parent) as server:
        streams = [Stream(f"s3://{folder.name}/{name}") for name in "abc"]
        corpus = open_corpus(streams, {**server.s3_options})
        assert ids_of(corpus, [0])[0] == "a 0"
        stores = [corpus.stores.get(i) for i in range(3)]
        assert [store.url for store in stores] == [stream.url for stream in streams]
        # One client counts what all of them did.
        assert len({store.counters()["requests"] for store in stores}) == 1
        corpus.close()
        with pytest.raises(StorageError, match="closed"):
            stores[2].get("index.json")


def test_a_stream_has_options_of_its_own(folder):
    with FaultServer(folder.parent) as server:
        bucket = Stream(f"s3://{folder.name}/a", storage_options=server.s3_options)
        corpus = open_corpus([bucket, Stream(str(folder / "c"))])
        last = len(corpus.shards) - 1
        assert ids_of(corpus, [0])[0] == "a 0"
        assert ids_of(corpus, [last])[-1] == "c 24"
        corpus.close()


@pytest.mark.parametrize("stored", [False, True])
def test_nothing_is_listed(tmp_path, stored):
    write(tmp_path / "bucket" / "a", 40)
    if stored:
        store = open_store(str(tmp_path / "bucket" / "a"))
        write_index(store, read_index(store))
    with FaultServer(tmp_path) as server:
        corpus = open_corpus("s3://bucket/a", server.s3_options)
        for shard_id in range(len(corpus.shards)):
            corpus.read(shard_id)
            corpus.sample_hashes(shard_id)
        corpus.close()
        assert not [seen for seen in server.log if "list" in seen.query]
        paths = [seen.path.rpartition("/")[2] for seen in server.log if seen.method == "GET"]
        assert paths.count("index.json") == 1
        assert len(server.log) < 2 * len(corpus.shards) + 8


def test_keys_that_may_not_list_still_read(folder):
    """S3 refuses what is missing where listing is not allowed; nothing optional may stop a run."""
    with FaultServer(folder.parent) as server:
        for name in ("moot.index.parquet", "labels.parquet"):
            for method in ("GET", "HEAD"):
                server.plan(Answer(403), path=name, method=method, forever=True)
        with pytest.warns(UserWarning, match="parquet.*taken as missing"):
            corpus = open_corpus(f"s3://{folder.name}/a", server.s3_options)
        with pytest.warns(UserWarning, match=r"labels\.parquet.*taken as missing"):
            assert corpus.stored_lengths(0) is None
        assert corpus.stored_lengths(0) is None
        assert ids_of(corpus, [0])[0] == "a 0"
        corpus.close()


def test_keys_that_may_read_nothing_are_refused(folder):
    with FaultServer(folder.parent) as server:
        server.plan(Answer(403), forever=True)
        server.plan(Answer(403), method="HEAD", forever=True)
        with pytest.warns(UserWarning), pytest.raises(ForbiddenError, match=r"index\.json"):
            open_corpus(f"s3://{folder.name}/a", server.s3_options)


def two_processes(corpus_of):
    """Call `corpus_of(share)` as the source and as another, with what the source broadcast."""
    sent = []

    def give(data):
        sent.append(data)
        return data

    first = corpus_of(Share(True, give))
    assert len(sent) == 1
    return first, corpus_of(Share(False, lambda data: sent[0]))


def test_the_other_process_gets_the_same_corpus(folder):
    def corpus_of(share):
        return open_corpus([Stream(str(folder / name)) for name in "cab"], share=share)

    first, other = two_processes(corpus_of)
    assert list(other.shards) == list(first.shards)
    assert (
        other.digests
        == first.digests
        == tuple(read_index(open_store(str(folder / name))).digest for name in "cab")
    )
    assert np.array_equal(other.first_shard, first.first_shard)
    assert ids_of(other, [3]) == ids_of(first, [3])


def test_the_other_process_asks_for_no_index(folder):
    with FaultServer(folder) as server:
        seen = []

        def corpus_of(share):
            corpus = open_corpus(f"{server.url}/a", share=share)
            seen.append(len(server.log))
            return corpus

        two_processes(corpus_of)
        assert seen[0] > 0
        assert seen[1] == seen[0]


@pytest.mark.parametrize("what", ["missing", "malformed"])
def test_what_the_source_could_not_read_every_process_says(tmp_path, what):
    (tmp_path / "c").mkdir()
    if what == "malformed":
        (tmp_path / "c" / "index.json").write_text("{")
    sent = []
    with pytest.raises(MootError, match="/c") as first:
        open_corpus(str(tmp_path / "c"), share=Share(True, lambda data: sent.append(data) or data))
    with pytest.raises(type(first.value), match="the process that reads the index failed: .*/c"):
        open_corpus(str(tmp_path / "c"), share=Share(False, lambda data: sent[0]))


def test_bytes_that_changed_on_the_way_are_refused(folder):
    sent = []

    def give(data):
        sent.append(data)
        return data

    open_corpus(str(folder / "a"), share=Share(True, give))
    changed = sent[0].replace(b"shard.00001", b"shard.00007")
    assert changed != sent[0]
    with pytest.raises(ShardError, match="digest"):
        open_corpus(str(folder / "a"), share=Share(False, lambda data: changed))


RANK = """
import json, sys
import torch.distributed as dist
from moot.loader.corpus import Stream, open_corpus, share_over
from moot.loader.errors import MootError

rank, meeting, url = int(sys.argv[1]), sys.argv[2], f"{sys.argv[3]}/rank{sys.argv[1]}"
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
try:
    corpus = open_corpus([Stream(f"{url}/a"), Stream(f"{url}/c")])
    apart = open_corpus(f"{url}/b", share=share_over(dist.group.WORLD))
    if rank == 0:
        open_corpus(f"{url}/b", share=None)
    print(json.dumps([corpus.shards.digest, apart.shards.digest, len(corpus.shards)]))
except MootError as error:
    print(json.dumps([str(error)]))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("is_broken", [False, True])
def test_one_rank_reads_for_all(folder, tmp_path, is_broken):
    for rank in (0, 1):
        (tmp_path / f"rank{rank}").symlink_to(folder)
    with FaultServer(tmp_path) as server:
        url = f"{server.url}/nothing" if is_broken else server.url
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(rank), str(tmp_path / "meeting"), url],
                cwd=tmp_path, stdout=subprocess.PIPE, text=True,
            )
            for rank in (0, 1)
        ]  # fmt: skip
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in ranks]
        paths = [seen.path for seen in server.log]
    assert [process.returncode for process in ranks] == [0, 0]
    assert not [path for path in paths if "rank1" in path]
    assert [path for path in paths if "rank0" in path]
    if is_broken:
        assert "the process that reads the index failed" in answers[1][0]
        return
    expected = open_corpus([Stream(str(folder / name)) for name in "ac"])
    assert answers[0] == answers[1]
    assert answers[0][0] == expected.shards.digest
    assert answers[0][2] == len(expected.shards)
