# SPDX-License-Identifier: Apache-2.0
"""One corpus through every server and every format: the same samples, and no byte too many.

The servers are real: nginx, moto's S3, rclone's S3 (signed requests, ranges), the folder itself and
memory. Formats are copies of one corpus; a text column is tokenised on the way.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import random_lengths, tokens_of, write_corpus
from moot.loader import ConfigError, Loader, StateError
from moot.loader.corpus import Stream, open_corpus
from moot.loader.corpus.write_labels import LabelPlan, write_labels
from moot.loader.shards import MDSWriter
from moot.loader.shards.jsonl_index import index_jsonl
from moot.loader.storage import open_store
from servers import KEYS, FaultServer, moto_s3, nginx, rclone_s3
from shard_formats import megatron_bytes
from streamed import samples_in, trace

LENGTHS = random_lengths(150)
SETTINGS = {"batch_rows": 8, "seq_len": 64, "num_slots": 4, "seed": 3, "window_shards": 4}
STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_corpus(root / "bucket" / "texts", LENGTHS, size_limit=1 << 12)
    return root


@pytest.fixture(scope="module")
def undisturbed(folder):
    return read(str(folder / "bucket" / "texts"))


def read(url, num=STEPS, **changes):
    with Loader(url, **(SETTINGS | changes)) as loader:
        return trace(loader, num)


def copy_into(source: Path, url, options=None):
    store = open_store(url, options)
    for file in source.iterdir():
        store.put(file.name, file.read_bytes())
    store.close()


def test_nginx_gives_the_same_samples(folder, undisturbed, tmp_path):
    with nginx(folder / "bucket", tmp_path) as url:
        assert read(f"{url}/texts") == undisturbed


def test_moto_gives_the_same_samples(folder, undisturbed):
    with moto_s3("bucket") as options:
        copy_into(folder / "bucket" / "texts", "s3://bucket/texts", options)
        assert read("s3://bucket/texts", storage_options=options) == undisturbed


def test_rclone_gives_the_same_samples(folder, undisturbed, tmp_path):
    with rclone_s3(folder, tmp_path) as options:
        assert read("s3://bucket/texts", storage_options=options) == undisturbed


def test_a_server_without_ranges_gives_the_same_samples(folder, undisturbed):
    with FaultServer(folder, ranges=False) as server:
        options = {**KEYS, "region": "us-east-1", "endpoint": server.url}
        assert read(f"{server.url}/bucket/texts") == undisturbed
        assert read("s3://bucket/texts", storage_options=options) == undisturbed


def test_memory_and_a_file_url_give_the_same_samples(folder, undisturbed):
    texts = folder / "bucket" / "texts"
    copy_into(texts, "memory://served/texts")
    assert read("memory://served/texts") == undisturbed
    assert read(f"file://{texts}") == undisturbed


# Formats -----------------------------------------------------------------------------------------


def documents():
    return [tokens_of(i, 0, length).astype(np.uint16) for i, length in enumerate(LENGTHS)]


def as_parquet(folder):
    table = pa.table({"tokens": pa.array(documents(), pa.list_(pa.uint16()))})
    pq.write_table(table, folder / "a.parquet", row_group_size=16)
    return {}


def as_jsonl(folder):
    lines = [json.dumps({"tokens": d.tolist()}) for d in documents()]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    index_jsonl(open_store(str(folder)), shard_bytes=1 << 14)
    return {"columns": ["tokens:ndarray:uint16"]}


def as_megatron(folder):
    data, index = megatron_bytes([{"tokens": d} for d in documents()], "<u2", 8)
    (folder / "a_text_document.bin").write_bytes(data)
    (folder / "a_text_document.idx").write_bytes(index)
    return {}


def as_mds(folder):
    write_corpus(folder, LENGTHS, size_limit=1 << 12, compression=None)
    return {}


@pytest.mark.parametrize("write", [as_mds, as_parquet, as_jsonl, as_megatron])
def test_every_format_gives_every_document_whole(tmp_path, write):
    """Unshuffled, copies give the same; shuffled, each document comes once an epoch."""
    streams = [Stream(str(tmp_path), options=write(tmp_path))]
    plain = {"shuffle": False, "num_slots": 1, "packing": "pad", "seq_len": int(LENGTHS.max())}
    seen = read(streams, len(LENGTHS) // 8, **plain)
    ids = [i for rows in seen for i in rows[0]]
    assert ids == list(range(len(ids)))
    assert [n for rows in seen for n in rows[2]] == LENGTHS[: len(ids)].tolist()
    shuffled = read(streams, len(LENGTHS) // 8, **(plain | {"shuffle": True}))
    ids = [i for rows in shuffled for i in rows[0]]
    assert ids != sorted(ids) and len(set(ids)) == len(ids)
    assert [n for rows in shuffled for n in rows[2]] == LENGTHS[ids].tolist()


def test_raw_tokens_are_cut_into_samples(tmp_path):
    tokens = np.concatenate([tokens_of(i, 0, 64) for i in range(96)]).astype("<u2")
    for i, part in enumerate(np.split(tokens, 3)):
        (tmp_path / f"train_{i:05}.bin").write_bytes(part.tobytes())
    stream = Stream(str(tmp_path), format="raw", options={"sample_tokens": 64})
    seen = read([stream], 12, seq_len=64)
    assert sorted(i for rows in seen for i in rows[0]) == list(range(96))


# Labels decide before bytes are fetched -----------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Documents of long tokens, uncompressed; one in eight has quality 3, and they lie together."""
    root = tmp_path_factory.mktemp("labelled")
    store = open_store(str(root / "texts"))
    columns = {"tokens": "ndarray:uint16", "quality": "uint8"}
    with MDSWriter(store, columns, compression=None, size_limit=1 << 14) as writer:
        for i in range(160):
            tokens = tokens_of(i, 0, 400 + i % 7).astype(np.uint16)
            writer.write({"tokens": tokens, "quality": np.uint8(3 if i % 80 < 10 else i % 3)})
    corpus = open_corpus(str(root / "texts"))
    write_labels(corpus, LabelPlan(columns=("quality",)))
    corpus.close()
    return root


def is_wanted(sample):
    return sample % 80 < 10


def test_where_reads_the_wanted_documents_alone_and_fetches_less(labelled):
    sent = {}
    for where in (None, "quality >= 3"):
        with FaultServer(labelled) as server:
            seen = read(f"{server.url}/texts", 40, where=where, num_strands=1)
            requests = [seen for seen in server.requests() if "shard." in seen.path]
            sent[where] = sum(_num_bytes(request, labelled) for request in requests)
            touched = {request.path for request in requests}
        if where is not None:
            assert all(is_wanted(sample) for sample in samples_in(seen))
            assert samples_in(seen) == {i for i in range(160) if is_wanted(i)}
            assert len(touched) <= 4, "shards in which nothing is wanted are not asked for"
    assert sent["quality >= 3"] < sent[None] / 4


def _num_bytes(request, root):
    if request.range is None:
        return (root / request.path.lstrip("/")).stat().st_size
    first, last = request.range.split("=")[1].split("-")
    return int(last) - int(first) + 1


def test_where_of_all_is_no_where_and_of_none_an_error(labelled):
    url = str(labelled / "texts")
    assert read(url, 12, where="quality >= 0") == read(url, 12)
    with pytest.raises(ConfigError, match="no sample of .* is wanted by where"):
        read(url, 1, where="quality == 9")


def test_where_is_part_of_what_a_state_belongs_to(labelled):
    url = str(labelled / "texts")
    settings = SETTINGS | {"num_strands": 1}
    whole = read(url, 9, where="quality >= 3", num_strands=1)
    with Loader(url, **settings, where="quality >= 3") as loader:
        trace(loader, 4)
        state = loader.state_dict()
    with Loader(url, **settings, where="quality >= 3") as loader:
        loader.load_state_dict(state)
        assert trace(loader, 5, 4) == whole[4:]
    with Loader(url, **settings) as loader, pytest.raises(StateError, match="where was"):
        loader.load_state_dict(state)
