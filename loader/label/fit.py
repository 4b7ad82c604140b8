# SPDX-License-Identifier: Apache-2.0
"""`moot fit`: sample a corpus, fit topics and quality, store the agents beside the corpus.

    URL/agents.safetensors   n-gram table, heads, joint cells: equal bytes for an equal fit
    URL/agents.json          the agents' states, and the report as `meta`, written last

A fit of the same settings on the same corpus is reused. Source: docs/fit.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..agents import AgentInfo, AgentSet, inline_quality, inline_topic, stored_domain
from ..corpus import Corpus, open_corpus
from ..errors import AgentError
from ..storage import Store, open_store
from .config import FitConfig
from .model import Fit, fit_pieces
from .ngrams import Decode, TopNgram, top_ngrams, topic_names
from .pieces import Pieces, SampleLimits, sample_pieces
from .report import build_report, versions

AGENTS_NAME = "agents.safetensors"
TRAIN, REFERENCE = "train", "reference"

Progress = Callable[[str, int, int | None, str], None]


def fit(
    corpus_url: str,
    config: FitConfig | None = None,
    progress: Progress | None = None,
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fit the agents of a corpus and store them beside it.

    Args:
        corpus_url: holds train/, reference/ and, where they exist, tokenizer.json and corpus.json.
        config: settings; default `FitConfig()`.
        progress: called as progress(stage, done, total, detail).
        options: as for `open_store`.

    Returns:
        The report (docs/fit.md names its fields), with "reused" set where a stored fit was taken.

    Raises:
        AgentError: no reference set, too little text, or scikit-learn is missing.
        StorageError, ShardError: the corpus cannot be read.
    """
    config = config or FitConfig()
    say = progress or (lambda stage, done, total, detail: None)
    store = open_store(corpus_url, options)
    try:
        _require_parts(store)
        corpus = {part: open_corpus(_below(store, part), options) for part in (TRAIN, REFERENCE)}
        try:
            identity = {"config": config.to_dict(), "corpus": _fingerprint(store)}
            if not config.force and (stored := _stored_report(store, identity)) is not None:
                return {**stored, "reused": True}
            return {**_fit_and_save(store, corpus, config, identity, say), "reused": False}
        finally:
            for part in corpus.values():
                part.close()
    finally:
        store.close()


def assemble(pieces: Pieces, fitted: Fit, names: Mapping[str, Sequence[str]]) -> AgentSet:
    """Build the agent set of a fit: quality and topic inline, domain from its column if any.

    Args:
        pieces: what was fitted on; its corpus pieces give the pool's cells and shares.
        fitted: the fit.
        names: of the "topic" and "domain" states; no domain names, no domain agent.
    """
    corpus = ~pieces.is_reference
    agents: list[AgentInfo] = [inline_quality(0, fitted.edges.tolist())]
    states = [fitted.quality_state[corpus]]
    if names["domain"]:
        agents.append(stored_domain(names["domain"]))
        states.append(pieces.domain[corpus])
    agents.append(inline_topic(1, names["topic"]))
    states.append(fitted.topic[corpus])
    joint, cell = np.unique(np.stack(states, axis=1), axis=0, return_inverse=True)
    tokens = np.bincount(cell.ravel(), weights=pieces.lengths[corpus], minlength=len(joint))
    return AgentSet(tuple(agents), fitted.model, joint.astype(np.int32), tokens / tokens.sum())


def _fit_and_save(
    store: Store,
    corpus: Mapping[str, Corpus],
    config: FitConfig,
    identity: dict[str, Any],
    say: Progress,
) -> dict[str, Any]:
    _require_sklearn()
    started = time.perf_counter()
    say("read sample", 0, None, "")
    pieces = _sample(corpus, config)
    sampled = time.perf_counter()
    fitted = fit_pieces(pieces, config, say)
    for text in fitted.warnings:
        warnings.warn(text, stacklevel=3)
    say("describe topics", 0, None, "")
    decode = _decoder(store)
    ngrams = _telling_ngrams(pieces, fitted, config, decode)
    names = {"topic": topic_names(ngrams), "domain": _domain_names(store, corpus[TRAIN], pieces)}
    agents = assemble(pieces, fitted, names)
    seconds = {"sample": sampled - started, "total": time.perf_counter() - started}
    report = {
        **identity,
        **build_report(pieces, fitted, ngrams, names, decode),
        "warnings": list(fitted.warnings),
        "num_cells": len(agents.pool_share),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "versions": versions(),
    }
    replace(agents, meta=report).save(store, AGENTS_NAME)
    say("describe topics", 1, 1, f"{len(ngrams)} topics")
    return report


def _telling_ngrams(
    pieces: Pieces, fitted: Fit, config: FitConfig, decode: Decode
) -> list[list[TopNgram]]:
    corpus = np.flatnonzero(~pieces.is_reference)
    num_topics = fitted.values.shape[1] - 1
    topic = fitted.topic[corpus]
    return top_ngrams(pieces.take(corpus), topic, num_topics, config.orders, decode)


def _sample(corpus: Mapping[str, Corpus], config: FitConfig) -> Pieces:
    """Corpus pieces, then reference pieces; ids of the latter follow the corpus's."""
    parts = []
    for part, most in ((TRAIN, config.max_pieces), (REFERENCE, config.max_reference_pieces)):
        limits = SampleLimits(most, config.max_tokens, config.max_shards, config.seq_len)
        is_reference = part == REFERENCE
        parts.append(sample_pieces(corpus[part], limits, config.seed, is_reference=is_reference))
    parts[1] = parts[1].with_offset(corpus[TRAIN].num_samples)
    return Pieces.concat(parts)


def _require_parts(store: Store) -> None:
    if not store.exists(f"{TRAIN}/index.json"):
        raise AgentError(
            f"{store.url} holds no {TRAIN}/index.json, so there is no corpus to fit on: name the "
            f"folder above {TRAIN}/, or build one with `moot corpus`"
        )
    if not store.exists(f"{REFERENCE}/index.json"):
        raise AgentError(
            f"{store.url} holds no reference set ({REFERENCE}/index.json), and quality means "
            "'like the reference': build the corpus with one (`moot corpus` sets it aside), or "
            f"write the documents you want more of as shards below {REFERENCE}/"
        )


def _require_sklearn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise AgentError("fitting needs scikit-learn: pip install 'moot[label]'")


def _fingerprint(store: Store) -> dict[str, str]:
    """Hashes of what the sample is drawn from and described by."""
    named = (f"{TRAIN}/index.json", f"{REFERENCE}/index.json", "tokenizer.json", "corpus.json")
    found = (name for name in named if store.exists(name))
    return {name: hashlib.sha256(store.get(name)).hexdigest() for name in found}


def _stored_report(store: Store, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a stored fit of the same identity; anything else, torn files too, is none."""
    try:
        meta = AgentSet.load(store, AGENTS_NAME).meta
    except AgentError:
        return None
    is_same = all(meta.get(key) == value for key, value in identity.items())
    return dict(meta) if is_same else None


def _decoder(store: Store) -> Decode:
    """Decode with the corpus's tokenizer; where there is none, show token numbers."""
    has_tokenizers = importlib.util.find_spec("tokenizers") is not None
    if not has_tokenizers or not store.exists("tokenizer.json"):
        return lambda tokens: " ".join(map(str, tokens))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(store.get("tokenizer.json").decode())
    return lambda tokens: str(tokenizer.decode(list(tokens)))


def _domain_names(store: Store, corpus: Corpus, pieces: Pieces) -> list[str]:
    """Names from corpus.json; numbers up to the largest one seen where it names none."""
    if any("domain" not in shard.column_names for shard in corpus.shards):
        return []
    named: list[str] = []
    if store.exists("corpus.json"):
        named = [str(name) for name in json.loads(store.get("corpus.json")).get("domains", [])]
    largest = int(pieces.domain[~pieces.is_reference].max())
    if named and largest >= len(named):
        raise AgentError(
            f"{store.url}: a document has domain {largest}, corpus.json names {len(named)}; "
            "build the corpus again"
        )
    return named or [f"domain {number}" for number in range(largest + 1)]


def _below(store: Store, part: str) -> str:
    return f"{store.url.rstrip('/')}/{part}"
