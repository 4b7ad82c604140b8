# SPDX-License-Identifier: Apache-2.0
"""Texts to tokens while shards are read: what comes out, what names it, from any thread."""

import json
import os
import threading

import numpy as np
import pytest
from moot.loader.errors import ConfigError, ShardError, StorageError
from moot.loader.shards import Ask, MDSWriter, find_shards, gather, read_shard
from moot.loader.shards.tokenise import Tokeniser
from moot.loader.storage import open_store
from shard_formats import FORMATS, documents, make_tokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["", "a", "the cat sat\non the mat", "\u4e2d\u6587 \U0001f600", "x" * 5000, "the the cat"]


@pytest.fixture(scope="module")
def text() -> str:
    return make_tokenizer()


def ids_by_hand(text: str, texts, eod=None) -> list[list[int]]:
    plain = tokenizers.Tokenizer.from_str(text)
    tail = [] if eod is None else [eod]
    return [plain.encode(one, add_special_tokens=False).ids + tail for one in texts]


def text_shard(folder, texts, columns=None):
    store = open_store(str(folder))
    with MDSWriter(store, columns or {"text": "str", "n": "uint8"}) as writer:
        for i, one in enumerate(texts):
            writer.write({"text": one, "n": i % 256})
    return store, find_shards(store)[0]


@pytest.mark.parametrize("eod", [None, 0])
def test_ids_are_the_tokenizers(tmp_path, text, eod):
    store, info = text_shard(tmp_path, TEXTS)
    tokeniser = Tokeniser.load(text, eod="<eod>" if eod == 0 else None)
    shard = tokeniser.tokenise(read_shard(store, info))
    expected = ids_by_hand(text, TEXTS, eod)
    every = np.arange(len(TEXTS))
    assert [ids.tolist() for ids in shard.values("tokens", every)] == expected
    assert shard.lengths("tokens").tolist() == list(map(len, expected))
    assert shard.values("text", every) == TEXTS
    assert shard.scalars("n").tolist() == every.tolist()
    assert shard.encoding("tokens") == "ndarray:uint16"
    assert shard.info.column_names == ("n", "text", "tokens")
    lengths = shard.lengths("tokens").astype(np.int64)
    out = np.empty(lengths.sum(), np.int64)
    places = np.zeros(len(TEXTS), np.int32), every.astype(np.int32)
    gather([shard], "tokens", *places, np.zeros_like(lengths), lengths, out)
    assert out.tolist() == [number for ids in expected for number in ids]


@pytest.mark.parametrize("form", [f for f in FORMATS if "text" in f.columns], ids=str)
def test_texts_of_every_format(form, tmp_path, text):
    store, docs = open_store(str(tmp_path)), documents(30)
    form.write(store, docs, 30)
    tokeniser = Tokeniser.load(text)
    found = []
    for info in find_shards(store, {**form.options, "columns": ["text"]}
                            if form.format_name != "mds" else {}):  # fmt: skip
        flat = tokeniser.encode_column(read_shard(store, info), "text")
        found += [part.tolist() for part in np.split(flat.values, flat.offsets[1:-1])]
    assert found == ids_by_hand(text, [d["text"] for d in docs])


def test_rows_not_wanted_have_no_ids(tmp_path, text):
    store, info = text_shard(tmp_path, TEXTS)
    rows = np.array([2, 5])
    shard = read_shard(store, info, Ask(rows=rows, verify="ranges"))
    shard = Tokeniser.load(text, eod=0).tokenise(shard, rows=rows)
    assert np.flatnonzero(shard.lengths("tokens")).tolist() == [2, 5]
    expected = ids_by_hand(text, TEXTS, 0)
    assert [ids.tolist() for ids in shard.values("tokens", rows)] == [expected[2], expected[5]]


def test_batches_do_not_change_the_ids(tmp_path, text, monkeypatch):
    texts = documents(200)
    texts = [d["text"] for d in texts]
    store, info = text_shard(tmp_path, texts)
    tokeniser = Tokeniser.load(text)
    whole = tokeniser.encode_column(read_shard(store, info), "text")
    for num_bytes, num_texts in ((1, 1024), (100, 3), (10**6, 7)):
        monkeypatch.setattr("moot.loader.shards.tokenise._BATCH_BYTES", num_bytes)
        monkeypatch.setattr("moot.loader.shards.tokenise._BATCH_TEXTS", num_texts)
        parts = tokeniser.encode_column(read_shard(store, info), "text")
        assert np.array_equal(parts.values, whole.values)
        assert np.array_equal(parts.offsets, whole.offsets)


def test_threads_share_a_tokeniser(tmp_path, text):
    texts = [d["text"] for d in documents(300)]
    store, info = text_shard(tmp_path, texts)
    shard, tokeniser = read_shard(store, info), Tokeniser.load(text)
    expected, found = ids_by_hand(text, texts), []
    threads = [
        threading.Thread(target=lambda: found.append(tokeniser.encode_column(shard, "text")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for flat in found:
        assert flat.values.tolist() == [number for ids in expected for number in ids]


def test_ids_stand_in_the_place_of_stored_tokens(tmp_path, text):
    store, docs = open_store(str(tmp_path)), documents(9)
    FORMATS[0].write(store, docs, 9)
    shard = Tokeniser.load(text, eod=0).tokenise(read_shard(store, find_shards(store)[0]))
    assert shard.info.column_names == ("n", "text", "tokens")
    expected = ids_by_hand(text, [d["text"] for d in docs], 0)
    assert [ids.tolist() for ids in shard.values("tokens", np.arange(9))] == expected


def test_digest_names_tokenizer_and_settings(text, tmp_path):
    first = Tokeniser.load(text)
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=3))
    for source in (str(tmp_path / "tokenizer.json"), (tmp_path / "tokenizer.json").as_uri()):
        assert Tokeniser.load(source).digest == first.digest
    others = [
        Tokeniser.load(text, eod=0), Tokeniser.load(text, eod=1),
        Tokeniser.load(text, add_special_tokens=True), Tokeniser.load(make_tokenizer(262)),
    ]  # fmt: skip
    assert len({first.digest, *(other.digest for other in others)}) == 5
    assert Tokeniser.load(text, eod="<eod>").digest == others[0].digest


def test_special_tokens_are_added_when_asked(text):
    assert Tokeniser.load(text).encode_texts(["a"])[0][0] != 1
    assert Tokeniser.load(text, add_special_tokens=True).encode_texts(["a"])[0][0] == 1


def test_padding_and_truncation_are_off(text):
    padded = tokenizers.Tokenizer.from_str(text)
    padded.enable_padding(length=50)
    padded.enable_truncation(3)
    tokeniser = Tokeniser.load(padded.to_str())
    assert tokeniser.encode_texts(TEXTS) == ids_by_hand(text, TEXTS)


def test_dtype_is_the_narrowest(text):
    words = {f"w{i}": i for i in range(70_000)}
    for num, dtype in ((256, np.uint8), (257, np.uint16), (65_536, np.uint16), (65_537, np.uint32)):
        some = dict(list(words.items())[:num])
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(some, unk_token="w0"))
        assert Tokeniser.load(made.to_str()).dtype == dtype


def test_memory_comes_from_the_caller(tmp_path, text):
    store, info = text_shard(tmp_path, TEXTS)
    sizes = []

    def allocate(num_bytes):
        sizes.append(num_bytes)
        return np.empty(num_bytes, np.uint8)

    flat = Tokeniser.load(text).encode_column(read_shard(store, info), "text", allocate=allocate)
    assert sizes == [flat.values.nbytes]
    assert not flat.values.flags.writeable


def test_what_cannot_be_tokenised_is_named(tmp_path, text):
    store, info = text_shard(tmp_path / "a", TEXTS)
    shard, tokeniser = read_shard(store, info), Tokeniser.load(text)
    with pytest.raises(ShardError, match="column 'n' is uint8; only str is text"):
        tokeniser.tokenise(shard, "n")
    with pytest.raises(ShardError, match="no column 'body'"):
        tokeniser.tokenise(shard, "body")
    with pytest.raises(ConfigError, match="no token '<end>' to end documents"):
        Tokeniser.load(text, eod="<end>")
    with pytest.raises(ConfigError, match="no token 300 to end documents"):
        Tokeniser.load(text, eod=300)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match=r"tokenizer\.json is no tokenizer"):
        Tokeniser.load(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StorageError, match=r"other\.json"):
        Tokeniser.load(str(tmp_path / "other.json"))


@pytest.mark.parametrize(("given", "expected"), [(None, "false"), ("true", "true")])
def test_parallelism_is_off_unless_the_environment_says_otherwise(
    text, monkeypatch, given, expected
):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", given or "")
    if given is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    Tokeniser.load(text)
    assert os.environ["TOKENIZERS_PARALLELISM"] == expected
