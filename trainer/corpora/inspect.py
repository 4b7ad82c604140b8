# SPDX-License-Identifier: Apache-2.0
"""A look into a corpus: its counts and a few documents of each domain.

Reads corpus.json, the truth where it is there, and one shard of the train set.
"""

import io
from collections import defaultdict
from typing import Any

from ...loader.errors import ConfigError
from ...loader.shards import Shard, read_index, read_shard
from ...loader.storage import Store, open_store
from .build import CLEAN, read_meta
from .tokens import import_tokenizers

_EXAMPLES = 3
_EXAMPLE_CHARS = 400


def inspect_corpus(url: str) -> dict[str, Any]:
    """Return what corpus.json says, with examples and the truth's counts.

    Args:
        url: of a corpus that `moot corpus` wrote.

    Returns:
        corpus.json's contents and "url", "examples" (domain -> list of {source, id, kind, text},
        texts cut), "kinds" (kind -> documents; None without truth.parquet), "agents" (whether
        fitted).

    Raises:
        ConfigError: no finished corpus stands there.
    """
    store = open_store(url)
    meta = read_meta(store)
    if meta is None or "splits" not in meta:
        raise ConfigError(
            f"{store.url} holds no finished corpus (no corpus.json): give the URL that was --out "
            "of `moot corpus`, or run that command again"
        )
    kinds = _truth(store)
    counts: dict[str, int] | None = None
    if kinds is not None:
        counts = {kind: list(kinds.values()).count(kind) for kind in sorted(set(kinds.values()))}
    examples = _examples(store, meta, kinds or {})
    is_fitted = store.exists("agents.safetensors")
    return meta | {"url": store.url, "examples": examples, "kinds": counts, "agents": is_fitted}


def _truth(store: Store) -> dict[str, str] | None:
    """Id -> kind, or None where the side file is not there."""
    import pyarrow.parquet as pq

    if not store.exists("truth.parquet"):
        return None
    table = pq.read_table(io.BytesIO(store.get("truth.parquet")))
    return dict(zip(table["id"].to_pylist(), table["kind"].to_pylist(), strict=True))


def _examples(
    store: Store, meta: dict[str, Any], kinds: dict[str, str]
) -> dict[str, list[dict[str, str]]]:
    """The first documents of each domain in the first train shard."""
    train = store.child("train")
    shard = read_shard(train, read_index(train)[0])
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, domain in enumerate(shard.scalars("domain").tolist()):
        if len(rows_of[domain]) < _EXAMPLES:
            rows_of[domain].append(row)
    found = {}
    for domain, name in enumerate(meta["domains"]):
        rows = rows_of[domain]
        columns = [shard.values(column, rows) for column in ("source", "id")]
        columns.append(_texts(store, shard, rows))
        found[name] = [
            {"source": source, "id": own_id, "kind": kinds.get(own_id, CLEAN), "text": text}
            for source, own_id, text in zip(*columns, strict=True)
        ]
    return found


def _texts(store: Store, shard: Shard, rows: list[int]) -> list[str]:
    """Beginnings of documents, from the text column or decoded from tokens."""
    if not rows:
        return []
    if "text" in shard.info.column_names:
        return [text[:_EXAMPLE_CHARS] for text in shard.values("text", rows)]
    tokenizer = import_tokenizers().Tokenizer.from_buffer(store.get("tokenizer.json"))
    tokens = [tokens[:_EXAMPLE_CHARS].tolist() for tokens in shard.values("tokens", rows)]
    return [text[:_EXAMPLE_CHARS] for text in tokenizer.decode_batch(tokens)]
