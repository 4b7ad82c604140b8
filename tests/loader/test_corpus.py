# SPDX-License-Identifier: Apache-2.0
"""Corpus: where samples stand, and what is said when there is no corpus or its index lies."""

import json

import numpy as np
import pytest
from moot.loader.corpus import open_corpus
from moot.loader.errors import ShardError, StorageError
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store


@pytest.fixture
def url(tmp_path):
    """A corpus of 40 samples in several shards."""
    with MDSWriter(open_store(str(tmp_path / "c")), {"id": "str", "domain": "uint8"},
                   size_limit=400) as writer:  # fmt: skip
        for i in range(40):
            writer.write({"id": f"sample {i}", "domain": i % 7})
    return tmp_path / "c"


def edit_index(url, change):
    index = json.loads((url / "index.json").read_text())
    change(index)
    (url / "index.json").write_text(json.dumps(index))


def test_sample_ids_are_global_ordinals(url):
    corpus = open_corpus(str(url))
    assert corpus.num_samples == 40
    assert len(corpus.shards) > 3
    assert corpus.first_sample.dtype == corpus.samples_per_shard.dtype == np.int64
    assert np.array_equal(np.diff(corpus.first_sample), corpus.samples_per_shard)
    shard_pos, rows = corpus.locate(np.arange(40))
    shards = [corpus.read(i) for i in range(len(corpus.shards))]
    found = [shards[s].values("id", [r])[0] for s, r in zip(shard_pos, rows, strict=True)]
    assert found == [f"sample {i}" for i in range(40)]
    for outside in (-1, 40):
        with pytest.raises(ValueError, match=r"in \[0, 40\)"):
            corpus.locate(np.array([3, outside]))


def test_empty_shards_hold_no_ids(url):
    def add_empty(index):
        first = index["shards"][0]
        index["shards"].insert(1, {**first, "samples": 0})

    edit_index(url, add_empty)
    corpus = open_corpus(str(url))
    shard_pos, _ = corpus.locate(np.arange(40))
    assert 1 not in shard_pos


def test_required_column_gives_its_encoding(url):
    corpus = open_corpus(str(url))
    assert corpus.require("domain") == "uint8"
    with pytest.raises(ShardError, match="no column 'tokens'; the corpus holds domain, id"):
        corpus.require("tokens")


def test_column_of_two_encodings_is_refused(url):
    def change(index):
        index["shards"][1]["column_encodings"][0] = "int8"

    edit_index(url, change)
    with pytest.raises(ShardError, match="in one shard"):
        open_corpus(str(url)).require("domain")


def test_wrong_path_is_named(tmp_path):
    with pytest.raises(StorageError, match="nowhere does not exist"):
        open_corpus(str(tmp_path / "nowhere"))


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match="is empty; write a corpus there"):
        open_corpus(str(tmp_path))


def test_folder_above_the_corpus_points_below(url, tmp_path):
    with pytest.raises(StorageError, match="open one of c$"):
        open_corpus(str(tmp_path))


def test_unfinished_corpus_is_named(url):
    (url / "index.json").unlink()
    with pytest.raises(StorageError, match="never finished"):
        open_corpus(str(url))


def test_corpus_without_samples_is_refused(tmp_path):
    MDSWriter(open_store(str(tmp_path)), {"id": "str"}).close()
    with pytest.raises(ShardError, match="holds no samples"):
        open_corpus(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "not json", "\x00\xff", "[" * 100_000, "NaN"])
def test_index_that_is_not_json_is_refused(url, text):
    (url / "index.json").write_text(text)
    with pytest.raises(ShardError, match=r"index\.json"):
        open_corpus(str(url))


def set_shard(key, value):
    return lambda index: index["shards"][1].__setitem__(key, value)


def set_file(key, value):
    return lambda index: index["shards"][1]["raw_data"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(version=3), "version 3 is not 2"),
        (lambda index: index.pop("version"), "version None is not 2"),
        (lambda index: index.update(shards=None), "'shards' is not a list"),
        (lambda index: index["shards"].append(7), "not an object"),
        (set_shard("format", "json"), "only mds version 2"),
        (set_shard("version", 1), "only mds version 2"),
        (set_shard("samples", -1), "cannot be in"),
        (set_shard("samples", 10**9), "cannot be in"),
        (set_shard("samples", True), "'samples' is True"),
        (set_shard("samples", "12"), "'samples' is '12'"),
        (set_shard("compression", "br:12"), "0 to 11"),
        (set_shard("compression", "rot13"), "unknown compression"),
        (set_shard("compression", "zstd:99"), "1 to 22"),
        (set_shard("compression", "zstd:"), "1 to 22"),
        (set_shard("compression", "zstd"), "zip_data: not an object"),
        (set_shard("column_names", ["domain"]), "do not match"),
        (set_shard("column_names", ["id", "id"]), "named twice"),
        (set_shard("column_names", [["id"], "x"]), "named by texts"),
        (set_shard("column_names", [1, 2]), "do not match"),
        (set_shard("column_names", []), "do not match"),
        (set_shard("column_encodings", ["pkl", "str"]), "'pkl' is refused"),
        (set_shard("column_encodings", ["uint7", "str"]), "unknown encoding 'uint7'"),
        (set_shard("column_encodings", ["ndarray:bool", "str"]), "malformed encoding"),
        (set_shard("column_encodings", ["ndarray:uint8:0", "str"]), "malformed encoding"),
        (set_shard("column_encodings", ["ndarray:", "str"]), "malformed encoding"),
        (set_shard("column_sizes", [2, None]), "has size 1, the index says 2"),
        (set_shard("column_sizes", [None, None]), "has size 1"),
        (set_shard("column_sizes", [1, 4]), "has size None"),
        (set_shard("raw_data", None), "raw_data: not an object"),
        (set_file("bytes", -5), "not the size of a shard"),
        (set_file("bytes", 2**33), "not the size of a shard"),
        (set_file("bytes", 1.5), "'bytes' is 1.5"),
        (set_file("basename", "../shard.00000.mds"), "leaves the corpus"),
        (set_file("basename", "a/../../x"), "leaves the corpus"),
        (set_file("basename", "/etc/passwd"), "leaves the corpus"),
        (set_file("basename", "..\\x"), "leaves the corpus"),
        (set_file("basename", ""), "leaves the corpus"),
        (set_file("hashes", {"xxh64": 5}), "hashes must be texts"),
        (set_file("hashes", ["xxh64"]), "'hashes' is"),
    ],
)
def test_lying_index_is_refused(url, change, message):
    edit_index(url, change)
    with pytest.raises(ShardError, match=message):
        open_corpus(str(url))


def test_merged_index_may_name_sub_folders(url):
    (url / "part").mkdir()
    (url / "shard.00001.mds").rename(url / "part" / "shard.00001.mds")
    edit_index(url, set_file("basename", "part/shard.00001.mds"))
    corpus = open_corpus(str(url))
    assert corpus.read(1).num_samples == corpus.shards[1].num_samples
