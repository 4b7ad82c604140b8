# SPDX-License-Identifier: Apache-2.0
"""The loader on every format: equal documents in equal shards are equal batches, text or tokens."""

import numpy as np
import pytest
import torch
from moot.loader import Loader
from moot.loader.corpus import Stream
from moot.loader.shards.tokenise import Tokeniser
from moot.loader.storage import open_store
from shard_formats import FORMATS, documents, make_tokenizer

BY_NAME = {form.name: form for form in FORMATS}
ALIKE = [
    ["mds", "mds-zstd", "mds-gz", "mds-bz2", "mds-br:1", "mds-snappy", "mds-unhashed"],
    ["parquet", "parquet-large", "parquet-coded", "parquet-checked"],
    ["megatron", "megatron-int32", "jsonl.gz", "json.zst"],
    ["raw", "raw-uint32", "llm.c", "npy"],
]


def put(name, folder, docs) -> Stream:
    form, store = BY_NAME[name], open_store(str(folder))
    form.write(store, docs, 20)
    if form.format_name == "parquet":
        store.delete("labels.parquet")  # a trap for the reader of Parquet, but labels to a corpus
    store.close()
    return Stream(str(folder), format=form.format_name, options=dict(form.options))


def batches(stream, **settings) -> list[torch.Tensor]:
    with Loader(stream, batch_rows=4, seq_len=64, num_slots=4, **settings) as loader:
        steps = iter(loader)
        return [next(steps)["input_ids"] for _ in range(6)]


@pytest.mark.parametrize("names", ALIKE, ids=lambda names: names[0])
def test_equal_documents_are_equal_batches(tmp_path, names):
    docs = documents(150, longest=200)
    found = [batches(put(name, tmp_path / name, docs)) for name in names]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", ["jsonl.gz", "json.zst"])
def test_text_is_trained_on_as_its_tokens_would_be(tmp_path, name):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(make_tokenizer())
    tokeniser = Tokeniser.load(str(tmp_path / "tokenizer.json"), eod="<eod>")
    docs = documents(150, longest=200)
    for document, ids in zip(docs, tokeniser.encode_texts([d["text"] for d in docs]), strict=True):
        document["tokens"] = np.array(ids, np.uint16)
    expected = batches(put("megatron", tmp_path / "tokens", docs))
    text = put(name, tmp_path / "text", docs)
    tokenizer = str(tmp_path / "tokenizer.json")
    found = batches(text, column="text", tokenizer=tokenizer, eod="<eod>")
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
