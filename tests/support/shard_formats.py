# SPDX-License-Identifier: Apache-2.0
"""The formats that shards come in, each with a writer: the rows of the conformance suite.

Writers here are the formats' own libraries, or follow the description of the layout.
"""

import gzip
import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from moot.loader.shards import MDSWriter
from moot.loader.shards.jsonl_index import index_jsonl
from moot.loader.shards.parquet_writer import ParquetWriter

SAMPLE_TOKENS = 16  # of raw files


def documents(num: int, seed: int = 0, longest: int = 60) -> list[dict]:
    """Documents of odd lengths; texts in many scripts, the shortest one character."""
    rng = np.random.default_rng(seed)
    letters = list('ab \n\t"\\/\u00e9\u4e2d\U0001f600\u0000\u2028')
    return [
        {
            "tokens": rng.integers(0, 65536, rng.integers(1, longest)).astype(np.uint16),
            "text": "".join(rng.choice(letters, rng.integers(1, longest))),
            "n": int(rng.integers(-(2**62), 2**62)),
        }
        for _ in range(num)
    ]


def make_tokenizer(vocabulary=300) -> str:
    """The text of a small tokenizer.json; <eod> is 0, <bos> is 1 and added when asked for."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<eod>", "<bos>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(["the cat sat on the mat"] * 3, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    return made.to_str()


@dataclass(frozen=True)
class Format:
    """A way to store documents; `write(store, documents, per_shard)` puts them there."""

    name: str
    write: Callable
    columns: tuple[str, ...]
    format_name: str
    options: Mapping = field(default_factory=dict)
    is_hashed: bool = False  # a flipped byte is found without hashes of samples
    reads_rows: bool = False  # single samples by ranges
    cut: Callable = lambda documents: documents  # what the samples are
    is_variant: bool = False  # differs from its neighbours in how values are stored, no more

    def __str__(self) -> str:
        return self.name


def put_mds(store, docs, per_shard, **settings):
    size = sum(len(d["text"].encode()) + d["tokens"].nbytes + 40 for d in docs) // len(docs)
    columns = {"tokens": "ndarray:uint16", "text": "str", "n": "int"}
    limit = min(400 + size * (per_shard + 1), 1 << 30)
    with MDSWriter(store, columns, size_limit=limit, **settings) as writer:
        for document in docs:
            writer.write(document)


def parquet_bytes(table: pa.Table, per_shard: int, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=per_shard, **options)
    return sink.getvalue()


def put_parquet(store, docs, per_shard, kinds=None, **options):
    """Two files, the second in a folder; rows sliced out of a larger table."""
    kinds = kinds or {"tokens": pa.list_(pa.uint16()), "text": pa.string(), "n": pa.int64()}
    padded = [docs[0], *docs, docs[0]]
    columns = {
        name: pa.array([d[name] for d in padded], kind) if not isinstance(kind, pa.DictionaryType)
        else pa.array([d[name] for d in padded], kind.value_type).dictionary_encode()
        for name, kind in kinds.items()
    }  # fmt: skip
    columns["ignored"] = pa.array([{"a": 1}] * len(padded))
    table = pa.table(columns).slice(1, len(docs))
    half = -(-len(docs) // 2)
    store.put("a.parquet", parquet_bytes(table.slice(0, half), per_shard, **options))
    if len(docs) > half:
        store.put("b/c.parquet", parquet_bytes(table.slice(half), per_shard, **options))
    store.put("_hidden.parquet", b"not Parquet")
    store.put("labels.parquet", b"not Parquet")


def put_our_parquet(store, docs, per_shard):
    size = sum(len(d["text"].encode()) + d["tokens"].nbytes + 24 for d in docs) // len(docs)
    columns = {"tokens": "ndarray:uint16", "text": "str", "n": "int64"}
    with ParquetWriter(store, columns, row_group_bytes=size * per_shard) as writer:
        for document in docs:
            writer.write(document)


def lines_of(docs) -> list[bytes]:
    return [
        json.dumps({
            "text": d["text"], "n": d["n"], "extra": {"deep": [1]}, "tokens": d["tokens"].tolist()
        }, ensure_ascii=i % 2 == 0).encode() + (b"\r\n" if i % 3 == 0 else b"\n")
        for i, d in enumerate(docs)
    ]  # fmt: skip


def put_jsonl(store, docs, per_shard):
    lines = lines_of(docs)
    half = -(-len(docs) // 2)
    store.put("a.jsonl", b"\n  \n" + b"".join(lines[:half]))
    if len(docs) > half:
        store.put("b.jsonl", b"".join(lines[half:]).rstrip())
    longest = max(map(len, lines))
    index_jsonl(store, shard_bytes=longest * per_shard)


def put_packed_jsonl(store, docs, per_shard, pack, ending):
    lines = lines_of(docs)
    for at in range(0, len(lines), per_shard):
        store.put(f"{at:05}{ending}", pack(b"".join(lines[at : at + per_shard])))
    index_jsonl(store)


def megatron_bytes(docs, dtype, code, sequences=1) -> tuple[bytes, bytes]:
    """The two files, by the description of the layout; documents cut into sequences."""
    parts, first = [], [0]
    for document in docs:
        parts += np.array_split(document["tokens"].astype(dtype), sequences)
        first.append(len(parts))
    lengths = np.array([part.size for part in parts], "<i4")
    ends = np.cumsum(lengths, dtype=np.int64) * np.dtype(dtype).itemsize
    pointers = np.concatenate(([0], ends[:-1])).astype("<i8")
    head = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, lengths.size, len(first))
    index = head + lengths.tobytes() + pointers.tobytes() + np.array(first, "<i8").tobytes()
    return b"".join(part.tobytes() for part in parts), index


def put_megatron(store, docs, per_shard, dtype="<u2", code=8, sequences=1):
    """A shard is 64 MiB here, so every `per_shard` documents are files of their own."""
    for at in range(0, len(docs), per_shard):
        data, index = megatron_bytes(docs[at : at + per_shard], dtype, code, sequences)
        store.put(f"{at:05}_text_document.bin", data)
        store.put(f"{at:05}_text_document.idx", index)


def flat(docs) -> np.ndarray:
    return np.concatenate([d["tokens"] for d in docs])


def cut_stream(docs) -> list[dict]:
    tokens = flat(docs)
    return [
        {"tokens": tokens[at : at + SAMPLE_TOKENS]} for at in range(0, tokens.size, SAMPLE_TOKENS)
    ]


def _rounded(docs, per_shard) -> list[np.ndarray]:
    """The stream in files of whole samples, the last one short."""
    tokens, size = flat(docs), SAMPLE_TOKENS * per_shard
    return [tokens[at : at + size] for at in range(0, tokens.size, size)]


def put_raw(store, docs, per_shard, dtype="<u2"):
    for i, part in enumerate(_rounded(docs, per_shard)):
        store.put(f"train_{i:05}.bin", part.astype(dtype).tobytes())


def put_llmc(store, docs, per_shard):
    for i, part in enumerate(_rounded(docs, per_shard)):
        head = np.zeros(256, "<i4")
        head[:3] = 20240520, 1, part.size
        store.put(f"train_{i:05}.bin", head.tobytes() + part.astype("<u2").tobytes())


def put_npy(store, docs, per_shard):
    for i, part in enumerate(_rounded(docs, per_shard)):
        sink = io.BytesIO()
        np.save(sink, part)
        store.put(f"{i:05}.npy", sink.getvalue())


def _zstd(data: bytes) -> bytes:
    import zstandard

    cut = len(data) // 2
    return zstandard.compress(data[:cut]) + zstandard.compress(data[cut:])


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data[:7]) + gzip.compress(data[7:])


def _with(write, **settings):
    return lambda store, docs, per_shard: write(store, docs, per_shard, **settings)


ALL, TOKENS = ("tokens", "text", "n"), ("tokens",)
LARGE = {"tokens": pa.large_list(pa.uint16()), "text": pa.large_string(), "n": pa.int64()}
TEXT_CODES = pa.dictionary(pa.int32(), pa.string())
CODED = {"tokens": pa.list_(pa.uint16()), "text": TEXT_CODES, "n": pa.int64()}
FIELDS = {"columns": ["text", "n:int64", "tokens:ndarray:uint16"]}
RAW = {"sample_tokens": SAMPLE_TOKENS}

FORMATS = [
    Format("mds", put_mds, ALL, "mds", is_hashed=True, reads_rows=True),
    *(
        Format(f"mds-{name}", _with(put_mds, compression=name), ALL, "mds", is_hashed=True,
               is_variant=name != "zstd")
        for name in ("zstd", "gz", "bz2", "br:1", "snappy")
    ),
    Format("mds-unhashed", _with(put_mds, hashes=()), ALL, "mds", reads_rows=True),
    Format("parquet", put_parquet, ALL, "parquet"),
    Format("parquet-large", _with(put_parquet, kinds=LARGE, compression="zstd"), ALL, "parquet",
           is_variant=True),
    Format("parquet-coded", _with(put_parquet, kinds=CODED), ALL, "parquet", is_variant=True),
    Format("parquet-ours", put_our_parquet, ALL, "parquet"),
    Format("parquet-checked", _with(put_parquet, write_page_checksum=True), ALL, "parquet",
           is_hashed=True),
    Format("jsonl", put_jsonl, ALL, "jsonl", FIELDS, is_hashed=True),
    Format("jsonl.gz", _with(put_packed_jsonl, pack=_gzip, ending=".jsonl.gz"), ALL, "jsonl",
           FIELDS, is_hashed=True),
    Format("json.zst", _with(put_packed_jsonl, pack=_zstd, ending=".json.zst"), ALL, "jsonl",
           FIELDS, is_hashed=True),
    Format("megatron", put_megatron, TOKENS, "megatron", reads_rows=True),
    Format("megatron-int32", _with(put_megatron, dtype="<i4", code=4, sequences=3), TOKENS,
           "megatron", reads_rows=True),
    Format("raw", put_raw, TOKENS, "raw", RAW, reads_rows=True, cut=cut_stream),
    Format("raw-uint32", _with(put_raw, dtype="<u4"), TOKENS, "raw", {**RAW, "dtype": "uint32"},
           reads_rows=True, cut=cut_stream, is_variant=True),
    Format("llm.c", put_llmc, TOKENS, "raw", RAW, reads_rows=True, cut=cut_stream),
    Format("npy", put_npy, TOKENS, "raw", RAW, reads_rows=True, cut=cut_stream),
]  # fmt: skip
