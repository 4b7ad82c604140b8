# SPDX-License-Identifier: Apache-2.0
"""From documents to a corpus in a bucket: degraded copies, tokenizer, shards, corpus.json.

    URL/train  URL/reference  URL/heldout    MDS shards, documents in seeded order
    URL/tokenizer.json  URL/truth.parquet    truth: id -> kind; only reports read it
    URL/corpus.json                          configuration and counts, written last

A corpus without corpus.json is unfinished and is built anew. Source: docs/corpus.md.
"""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xxhash

from ...loader.errors import ConfigError
from ...loader.shards.mds_writer import MDSWriter
from ...loader.storage import Store, open_store
from .degrade import degraded_copies
from .documents import Document, Splits, num_bytes, seeded_hash
from .tokens import (
    END_OF_DOCUMENT,
    encode_documents,
    end_of_document,
    import_tokenizers,
    train_tokenizer,
)

FORMAT = 1
SPLITS = ("train", "reference", "heldout")
CLEAN = "clean"

Progress: TypeAlias = Callable[[str, int, int | None, str], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """What every corpus is configured by; sizes count bytes of text."""

    seed: int = 0
    """Decides every random choice."""
    size_bytes: int | None = None
    """Bytes of text in the train set, degraded copies included; None takes all there is."""
    degraded_share: float = 0.0
    """Share of the train documents that are degraded copies, in [0, 0.5]."""
    reference_bytes: int | None = None
    """Bytes of text in the reference set; None is a fortieth of the train set."""
    heldout_bytes: int | None = None
    """Bytes of text in the held-out set; None is a fortieth of the train set."""
    vocab_size: int = 8192
    """Tokens of the tokenizer, in [512, 65536]."""
    text_column: bool = True
    """Whether shards carry the text beside its tokens."""
    min_chars: int = 200
    """Shorter documents are left out."""
    shard_bytes: int = 1 << 22
    """Largest size of a shard before compression."""

    def check(self) -> None:
        """Refuse values out of range; subclasses call it."""
        bounds = {
            "seed": (0, 2**63 - 1),
            "degraded_share": (0.0, 0.5),
            "vocab_size": (512, 65_536),
            "min_chars": (1, 65_536),
            "shard_bytes": (1 << 16, 1 << 31),
        }
        for name, (low, high) in bounds.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError(f"{name}={value}: must lie in [{low}, {high}]")
        for name in ("size_bytes", "reference_bytes", "heldout_bytes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value}: must be above 0")

    def side_bytes(self, asked: int | None, total: int) -> int:
        """Bytes of a reference or held-out set beside `total` bytes of train text."""
        return asked if asked is not None else max(1, total // 40)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON has them."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))


def silent(stage: str, done: int, total: int | None, detail: str = "") -> None:
    """Report no progress."""


def build_corpus(
    out_url: str,
    config: CorpusConfig,
    collect: Callable[[], Splits],
    progress: Progress = silent,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Write a corpus unless the same one is there; see `build_local` and `build_text`.

    Args:
        out_url: bucket and prefix of the corpus.
        config: compared with the one in corpus.json.
        collect: reads the documents; called only if something is to be built.
        progress: called as progress(stage, done, total, detail).
        force: replace whatever corpus is there.

    Raises:
        ConfigError: another corpus is there and `force` is not set.
    """
    import_tokenizers()
    store = open_store(out_url)
    settings = config.to_dict() | {"kind": type(config).__name__}
    if (found := read_meta(store)) is not None and not force:
        if found.get("config") == settings and found.get("format") == FORMAT:
            return found | {"reused": True}
        raise ConfigError(_difference(store.url, found.get("config", {}), settings))
    splits = collect()
    _clear(store)
    meta = {"format": FORMAT, "config": settings} | _write(store, config, splits, progress)
    store.put("corpus.json", json.dumps(meta, indent=1).encode())
    return meta | {"reused": False}


def read_meta(store: Store) -> dict[str, Any] | None:
    """Return the contents of corpus.json, or None where no finished corpus is."""
    if not store.exists("corpus.json"):
        return None
    try:
        meta = json.loads(store.get("corpus.json"))
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise ConfigError(
            f"{store.url}/corpus.json is not a corpus description; choose another place or --force"
        )
    return meta or None


def _clear(store: Store) -> None:
    """Remove an old or unfinished corpus and what was fitted to it; corpus.json goes first."""
    made = ("train/", "reference/", "heldout/", "agents.", "truth.parquet", "tokenizer.json")
    store.delete("corpus.json")
    if store.exists("train/index.json") or store.exists("tokenizer.json"):
        for name in store.list():
            if name.startswith(made):
                store.delete(name)


def _write(
    store: Store, config: CorpusConfig, splits: Splits, progress: Progress
) -> dict[str, Any]:
    """Write everything but corpus.json; return what it has to say."""
    progress("degrade", 0, None, "")
    copies, kinds = degraded_copies(splits.train, config.degraded_share, config.seed)
    progress("degrade", 1, 1, f"{len(copies)} copies")
    progress("tokenizer", 0, None, "")
    train = splits.train + copies
    tokenizer = train_tokenizer(train, config.vocab_size, config.seed)
    progress("tokenizer", 1, 1, f"{tokenizer.get_vocab_size()} tokens")
    content = {"train": train, "reference": splits.reference, "heldout": splits.heldout}
    counts: dict[str, Any] = {}
    for name, documents in content.items():
        placed = sorted(documents, key=lambda one: seeded_hash("place/" + one.id, config.seed))
        counts[name] = _write_split(store.child(name), placed, tokenizer, config, progress)
        counts[name]["domains"] = _by_domain(placed, counts[name].pop("lengths"), splits.domains)
    description = tokenizer.to_str().encode()
    store.put("tokenizer.json", description)
    truth = dict.fromkeys((document.id for document in splits.train), CLEAN)
    truth |= {copy.id: kind for copy, kind in zip(copies, kinds, strict=True)}
    store.put("truth.parquet", _truth(truth))
    return {
        "corpus_id": xxhash.xxh3_128_hexdigest(
            b"".join(store.child(name).get("index.json") for name in content)
        ),
        "seed": config.seed,
        "domains": list(splits.domains),
        "splits": counts,
        "degraded": {"share": len(copies) / max(1, len(train)), "kinds": Counter(kinds)},
        "skipped": dict(sorted(splits.skipped.items())),
        "vocab_size": tokenizer.get_vocab_size(),
        "eod_token": END_OF_DOCUMENT,
        "eod_id": end_of_document(tokenizer),
        "tokenizer_hash": xxhash.xxh3_128_hexdigest(description),
        "notes": splits.notes,
    }


def _write_split(
    store: Store,
    documents: Sequence[Document],
    tokenizer: Any,
    config: CorpusConfig,
    progress: Progress,
) -> dict[str, Any]:
    """Write one split's shards; return its counts and the token count of every document."""
    stage = f"encode {store.url.rstrip('/').rpartition('/')[2]}"
    arrays = encode_documents(
        tokenizer, documents, lambda done: progress(stage, done, len(documents), "")
    )
    columns = {"tokens": "ndarray:uint16", "source": "str", "domain": "uint8", "id": "str"}
    if config.text_column:
        columns["text"] = "str"
    writer = MDSWriter(
        store, columns, compression="zstd:3", hashes=("xxh64",), size_limit=config.shard_bytes
    )
    with writer:
        for document, tokens in zip(documents, arrays, strict=True):
            row = {"tokens": tokens, "source": document.source, "id": document.id}
            row |= {"domain": np.uint8(document.domain)}
            writer.write(row | ({"text": document.text} if config.text_column else {}))
    shards = json.loads(store.get("index.json"))["shards"]
    files = [shard["zip_data"] or shard["raw_data"] for shard in shards]
    return {
        "shards": len(shards),
        "raw_bytes": sum(shard["raw_data"]["bytes"] for shard in shards),
        "stored_bytes": sum(file["bytes"] for file in files),
        "lengths": [len(tokens) for tokens in arrays],
    }


def _by_domain(
    documents: Sequence[Document], lengths: Sequence[int], domains: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count documents, bytes of text and tokens of each domain."""
    counts = {name: {"documents": 0, "text_bytes": 0, "tokens": 0} for name in domains}
    for document, length in zip(documents, lengths, strict=True):
        count = counts[domains[document.domain]]
        count["documents"] += 1
        count["text_bytes"] += num_bytes(document.text)
        count["tokens"] += length
    return counts


def _truth(truth: Mapping[str, str]) -> bytes:
    """The side file: a Parquet table of id and kind, sorted by id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = sorted(truth)
    file = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "kind": [truth[one] for one in ids]}), file)
    return file.getvalue()


def _difference(url: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in which settings two corpora differ."""
    changed = [
        f"{name} {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
    return (
        f"{url} holds a corpus of another configuration ({'; '.join(changed) or 'format'}); "
        "choose another --out, or pass --force to replace it"
    )
