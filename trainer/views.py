# SPDX-License-Identifier: Apache-2.0
"""What `moot inspect` prints: counts and examples of a corpus, last steps and mixture of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console as Terminal
from rich.markup import escape
from rich.table import Table

from ..loader.errors import ConfigError
from ..loader.storage import Store, open_store

if TYPE_CHECKING:
    from ..loader.ledger import LedgerView

_LAST_STEPS = 8
_EXAMPLE_LINES = 6


def show(terminal: Terminal, url: str) -> None:
    """Print what stands at `url`: a corpus or a run.

    Raises:
        ConfigError: neither stands there.
    """
    from .corpora import inspect_corpus

    store = open_store(url)
    if store.exists("corpus.json"):
        show_corpus(terminal, inspect_corpus(url))
        return
    names = _names(store)
    if any(name.startswith("ledger/") for name in names):
        show_run(terminal, store)
        return
    raise ConfigError(f"{store.url} is neither a corpus nor a run: {_what_is_there(names)}")


def show_corpus(terminal: Terminal, corpus: Mapping[str, Any]) -> None:
    """Print a corpus as `inspect_corpus` describes it."""
    terminal.print(f"[bold]corpus[/] {escape(corpus['url'])}  seed {corpus['seed']}")
    terminal.print(_domain_table(corpus))
    terminal.print(_split_table(corpus))
    terminal.print(
        f"vocabulary {corpus['vocab_size']:,}, documents end with {corpus['eod_token']} "
        f"(id {corpus['eod_id']}); agents {'fitted' if corpus['agents'] else 'not fitted yet'}",
        highlight=False,
    )
    skipped = ", ".join(f"{name} {count:,}" for name, count in corpus["skipped"].items())
    terminal.print(f"left out: {skipped or 'nothing'}", highlight=False)
    if corpus["kinds"] is not None:
        terminal.print(f"degraded: {_kinds(corpus['kinds'])}", highlight=False)
    for domain, examples in corpus["examples"].items():
        for example in examples:
            _print_example(terminal, domain, example)


def show_run(terminal: Terminal, store: Store) -> None:
    """Print the last steps of a run's ledger, and kept against offered text by domain."""
    from ..loader.ledger import read_ledger

    ledger = read_ledger(store.child("ledger"))
    info = json.loads(store.get("run.json")) if store.exists("run.json") else {}
    terminal.print(
        f"[bold]run[/] {escape(store.url)}  kind {info.get('kind', 'unknown')}, "
        f"{len(ledger.steps):,} steps, {len(ledger.pieces):,} pieces offered, "
        f"{len(ledger.probes):,} probes credited",
        highlight=False,
    )
    terminal.print(_step_table(ledger, info))
    mixture = _mixture_table(ledger, info)
    if mixture is not None:
        terminal.print(mixture)


def _names(store: Store) -> list[str]:
    """Names of the objects below a store, none where nothing is."""
    folder = Path(unquote(store.url.removeprefix("file://")))
    return store.list() if "s3://" in store.url or folder.is_dir() else []


def _what_is_there(names: Sequence[str]) -> str:
    """Say what was found instead, and where to look."""
    if not names:
        return "nothing is there; `moot corpus local --out URL` writes a corpus"
    below = sorted({
        name.rpartition("/")[0].removesuffix("/ledger")
        for name in names
        if name.endswith("/corpus.json") or "/ledger/" in name
    })  # fmt: skip
    if below:
        return f"look into one of {', '.join(below[:8])}"
    if "index.json" in names:
        return "it is one split of shards; give the folder above it"
    return f"it holds neither corpus.json nor ledger/ among {len(names)} objects"


def _table(*headings: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _domain_table(corpus: Mapping[str, Any]) -> Table:
    """Documents, text and tokens of the train set by domain; tokens of the other sets."""
    splits = {name: split["domains"] for name, split in corpus["splits"].items()}
    total = max(1, sum(count["tokens"] for count in splits["train"].values()))
    table = _table(
        "domain", "documents", "text MB", "tokens", "share", "reference tokens", "held-out tokens"
    )
    for name in corpus["domains"]:
        train = splits["train"][name]
        table.add_row(
            escape(name),
            f"{train['documents']:,}",
            f"{train['text_bytes'] / 1e6:.2f}",
            f"{train['tokens']:,}",
            f"{train['tokens'] / total:.1%}",
            f"{splits['reference'][name]['tokens']:,}",
            f"{splits['heldout'][name]['tokens']:,}",
        )
    return table


def _split_table(corpus: Mapping[str, Any]) -> Table:
    """Size of each split, in documents and in bytes as stored."""
    table = _table("set", "documents", "text MB", "tokens", "shards", "stored MB")
    for name, split in corpus["splits"].items():
        counts = split["domains"].values()
        table.add_row(
            name,
            f"{sum(count['documents'] for count in counts):,}",
            f"{sum(count['text_bytes'] for count in counts) / 1e6:.2f}",
            f"{sum(count['tokens'] for count in counts):,}",
            f"{split['shards']:,}",
            f"{split['stored_bytes'] / 1e6:.2f}",
        )
    return table


def _kinds(kinds: Mapping[str, int]) -> str:
    """Share of degraded documents and their kinds."""
    total = max(1, sum(kinds.values()))
    spoilt = {kind: count for kind, count in kinds.items() if kind != "clean"}
    listed = ", ".join(f"{kind} {count:,}" for kind, count in spoilt.items())
    return f"{sum(spoilt.values()) / total:.1%} of the train documents ({listed or 'none'})"


def _print_example(terminal: Terminal, domain: str, example: Mapping[str, str]) -> None:
    """Print the beginning of a document, control characters made harmless."""
    lines = [line for line in example["text"].splitlines() if line.strip()][:_EXAMPLE_LINES]
    terminal.print(
        f"\n[bold]{escape(domain)}[/] {escape(example['source'])}, {example['kind']}",
        highlight=False,
    )
    for line in lines:
        plain = "".join(char if char.isprintable() else " " for char in line)[:96]
        terminal.print(f"  {escape(plain)}", style="dim", highlight=False)


def _step_table(ledger: "LedgerView", info: Mapping[str, Any]) -> Table:
    """The last steps: policy, theta, pieces and tokens kept."""
    last = ledger.steps.slice(max(0, len(ledger.steps) - _LAST_STEPS)).to_pylist()
    num_agents = len(last[-1]["theta"]) if last else 0
    names = _agent_names(info, num_agents)
    headings = ["pieces kept", "of", "tokens kept", "of"]
    table = _table("step", "policy", *(f"theta {name}" for name in names), *headings)
    step_of = ledger.pieces["step"].to_numpy()
    kept = ledger.pieces["kept"].to_numpy(zero_copy_only=False)
    length = ledger.pieces["length"].to_numpy()
    for row in last:
        here = step_of == row["step"]
        counts = (np.sum(here & kept), np.sum(here), length[here & kept].sum(), length[here].sum())
        table.add_row(
            f"{row['step']:,}",
            str(row["policy_version"]),
            *(f"{value:.3f}" for value in row["theta"]),
            *(f"{count:,}" for count in counts),
        )
    return table


def _agent_names(info: Mapping[str, Any], num_agents: int) -> list[str]:
    """Names of the agents as run.json has them, else numbers."""
    found = [agent["name"] for agent in info.get("agents") or ()]
    return found if len(found) == num_agents else [str(number) for number in range(num_agents)]


def _mixture_table(ledger: "LedgerView", info: Mapping[str, Any]) -> Table | None:
    """Offered and kept tokens by domain; None where nothing says what the domains are."""
    domain = _domain_of_pieces(ledger, info)
    names = info.get("domains") or ()
    if domain is None or not names:
        return None
    kept = ledger.pieces["kept"].to_numpy(zero_copy_only=False)
    length = ledger.pieces["length"].to_numpy().astype(np.float64)
    is_known = domain >= 0
    offered, chosen = (
        np.bincount(domain[mask], weights=length[mask], minlength=len(names))
        for mask in (is_known, is_known & kept)
    )
    table = _table("domain", "offered tokens", "of all", "kept tokens", "of all", "kept share")
    for name, was, now in zip(names, offered, chosen, strict=True):
        shares = (was / max(1.0, offered.sum()), now / max(1.0, chosen.sum()), now / max(1.0, was))
        texts = [f"{share:.1%}" for share in shares]
        table.add_row(escape(name), f"{was:,.0f}", texts[0], f"{now:,.0f}", *texts[1:])
    return table


def _domain_of_pieces(ledger: "LedgerView", info: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """Domain of each piece: the domain agent's state, else the corpus's column."""
    names = [agent["name"] for agent in info.get("agents") or ()]
    states = ledger.pieces["states"].to_pylist() if "domain" in names else []
    if states and len(states[0]) == len(names):
        return np.array([row[names.index("domain")] for row in states], np.int64)
    if not info.get("corpus"):
        return None
    from .report.documents import Documents

    documents = Documents(info["corpus"])
    sample_ids = ledger.pieces["sample_id"].to_numpy()
    facts = documents.facts(sample_ids)
    documents.close()
    return np.asarray(facts.find(facts.domain, sample_ids), np.int64)
