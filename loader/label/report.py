# SPDX-License-Identifier: Apache-2.0
"""The report of a fit: what was measured on held-out documents, and what the topics look like.

Plain JSON values throughout. Everything called held-out was neither fitted on nor used to choose
when to stop.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from .heads import Training
from .measure import auc, balanced_accuracy, confusion
from .model import NUM_QUALITY_STATES, Fit
from .ngrams import Decode, TopNgram
from .pieces import Pieces

if TYPE_CHECKING:
    from rich.console import RenderableType

NUM_NGRAMS = 12
NUM_EXAMPLES = 3
EXAMPLE_CHARS = 240

NOTES = (
    "quality was fitted on reference text against corpus text of the same domains and against "
    "shuffled copies of itself (shuffled_share); it was never shown which documents are degraded, "
    "and corpus text as good as the reference counts as corpus: it is no detector of junk",
    "a domain without reference text took no part in fitting quality; its values are extrapolated",
    "topic accuracy is agreement with k-means, not with a human's topics",
    "quality state s holds the corpus pieces between the s/5 and (s+1)/5 quantiles of the sample's "
    "value, so a state is a quintile, not a grade",
    "pool shares are estimated from the sample; a rare joint cell may be missing",
)


def build_report(
    pieces: Pieces,
    fit: Fit,
    ngrams: Sequence[Sequence[TopNgram]],
    names: Mapping[str, Sequence[str]],
    decode: Decode,
) -> dict[str, Any]:
    """Measure a fit.

    Args:
        pieces: what was fitted on.
        fit: the result.
        ngrams: telling n-grams of every topic.
        names: the names of "topic" and "domain" states.
        decode: tokens to text, for the examples.
    """
    return {
        "sample": _describe_sample(pieces, fit),
        "quality": _describe_quality(pieces, fit, decode),
        "topic": {
            **_measure_topics(pieces, fit),
            "topics": _describe_topics(pieces, fit, ngrams, names, decode),
        },
        "training": {
            "quality": _describe_training(fit.quality_training),
            "topic": _describe_training(fit.topic_training),
        },
        "quantisation": {
            "max_abs_error": fit.agreement.max_abs_error,
            "mean_abs_error": fit.agreement.mean_abs_error,
            "same_topic_share": fit.agreement.same_topic_share,
        },
        "notes": list(NOTES),
    }


def versions() -> dict[str, str]:
    """Return the versions that decide the outcome."""
    packages = ("moot", "numpy", "scipy", "scikit-learn", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def report_table(report: Mapping[str, Any]) -> RenderableType:
    """Lay a report out for the terminal: the measures, then a row a topic."""
    from rich.console import Group
    from rich.table import Table

    sample, quality, topic = report["sample"], report["quality"], report["topic"]
    measures = Table(
        "measure", f"held-out {sample['split_by']}s", title="moot fit", title_justify="left"
    )
    measures.add_row("quality: AUC, reference over corpus", _figure(quality["heldout_auc"]))
    same_domain = _figure(quality["heldout_auc_same_domain"])
    measures.add_row("quality: AUC within the reference's domains", same_domain)
    measures.add_row(
        "quality: AUC over its shuffled copies", _figure(quality["heldout_auc_shuffled"])
    )
    measures.add_row("quality: balanced accuracy", _figure(quality["heldout_balanced_accuracy"]))
    measures.add_row("topic: agreement with k-means", _figure(topic["heldout_accuracy"]))
    measures.add_row("topic: mean recall of topics", _figure(topic["heldout_mean_recall"]))
    same = report["quantisation"]["same_topic_share"]
    measures.add_row("quantised topic equals float topic (all pieces)", _figure(same))
    pieces = f"{sample['corpus']['pieces']} + {sample['reference']['pieces']} reference"
    measures.add_row("pieces sampled", pieces)
    topics = Table("topic", "tokens", "telling n-grams", "mostly from", title_justify="left")
    for entry in topic["topics"]:
        telling = " | ".join(_one_line(gram["text"], 24) for gram in entry["ngrams"][:6])
        domains = sorted(entry["domains"].items(), key=lambda item: -item[1])[:2]
        mostly = ", ".join(f"{name} {share:.0%}" for name, share in domains)
        topics.add_row(
            *map(_plain, (entry["name"], f"{entry['token_share']:.1%}", telling, mostly))
        )
    warned = [_plain(f"warning: {text}") for text in report.get("warnings", ())]
    return Group(measures, topics, *warned)


def _describe_sample(pieces: Pieces, fit: Fit) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for is_reference, name in ((False, "corpus"), (True, "reference")):
        mine = pieces.is_reference == is_reference
        described[name] = {
            "pieces": int(mine.sum()),
            "documents": len(np.unique(pieces.document_id[mine])),
            "tokens": int(pieces.lengths[mine].sum()),
        }
    parts = {"train": fit.splits.train, "stop": fit.splits.stop, "heldout": fit.splits.heldout}
    described["split_by"] = fit.splits.unit
    described["split_pieces"] = {name: len(part) for name, part in parts.items()}
    return described


def _describe_quality(pieces: Pieces, fit: Fit, decode: Decode) -> dict[str, Any]:
    value, held = fit.values[:, 0], fit.splits.heldout
    is_reference = pieces.is_reference[held]
    corpus = np.flatnonzero(~pieces.is_reference)
    by_value = corpus[np.argsort(value[corpus], kind="stable")]
    shuffled = fit.shuffled_values[np.isin(np.flatnonzero(pieces.is_reference), held)]
    held_states = fit.quality_state[held][~is_reference]
    return {
        "heldout_auc": auc(value[held][is_reference], value[held][~is_reference]),
        "heldout_auc_same_domain": _auc_by_domain(value[held], is_reference, pieces.domain[held]),
        "heldout_auc_shuffled": auc(value[held][is_reference], shuffled),
        "heldout_balanced_accuracy": balanced_accuracy(is_reference, value[held] > 0),
        "edges": fit.edges.tolist(),
        "heldout_state_shares": _shares(held_states, NUM_QUALITY_STATES),
        "lowest": _examples(pieces, by_value, decode),
        "highest": _examples(pieces, by_value[::-1], decode),
    }


def _auc_by_domain(value: np.ndarray, is_reference: np.ndarray, domain: np.ndarray) -> float | None:
    """Mean over the domains that hold both; None where none does."""
    figures = []
    for number in np.unique(domain[is_reference]):
        mine = domain == number
        figures.append(auc(value[mine & is_reference], value[mine & ~is_reference]))
    known = [figure for figure in figures if not np.isnan(figure)]
    return float(np.mean(known)) if known else None


def _describe_training(training: Training | None) -> dict[str, Any] | None:
    if training is None:
        return None
    return {"stop_losses": list(training.stop_losses), "best_epoch": training.best_epoch}


def _measure_topics(pieces: Pieces, fit: Fit) -> dict[str, Any]:
    held = fit.splits.heldout[~pieces.is_reference[fit.splits.heldout]]
    num_topics = fit.values.shape[1] - 1
    counts = confusion(fit.cluster[held], fit.topic[held], num_topics)
    in_topic = counts.sum(axis=1)
    recall = counts.diagonal()[in_topic > 0] / in_topic[in_topic > 0]
    return {
        "num_topics": num_topics,
        "heldout_accuracy": float(counts.diagonal().sum() / max(counts.sum(), 1)),
        "heldout_mean_recall": float(recall.mean()),
        "heldout_confusion": counts.tolist(),
    }


def _describe_topics(
    pieces: Pieces,
    fit: Fit,
    ngrams: Sequence[Sequence[TopNgram]],
    names: Mapping[str, Sequence[str]],
    decode: Decode,
) -> list[dict[str, Any]]:
    corpus = np.flatnonzero(~pieces.is_reference)
    total_tokens = pieces.lengths[corpus].sum()
    described = []
    for number, name in enumerate(names["topic"]):
        mine = corpus[fit.topic[corpus] == number]
        central = mine[np.argsort(fit.distance[mine], kind="stable")]
        # A piece that k-means put elsewhere is no example of this topic, however central there.
        central = central[fit.cluster[central] == number]
        top = ngrams[number][:NUM_NGRAMS]
        described.append({
            "name": name,
            "pieces": len(mine),
            "token_share": float(pieces.lengths[mine].sum() / total_tokens),
            "domains": _domain_shares(pieces.domain[mine], names["domain"]),
            "ngrams": [
                {"text": gram.text, "share_in": gram.share_in, "share_out": gram.share_out}
                for gram in top
            ],
            "examples": _examples(pieces, central, decode),
        })
    return described


def _examples(pieces: Pieces, ordered: np.ndarray, decode: Decode) -> list[dict[str, Any]]:
    """The first pieces of distinct documents in `ordered`, cut short."""
    found: dict[int, dict[str, Any]] = {}
    for pos in ordered.tolist():
        document = int(pieces.document_id[pos])
        if document not in found:
            tokens = pieces.tokens[pieces.cu_seqlens[pos] : pieces.cu_seqlens[pos + 1]]
            text = decode(tokens[:EXAMPLE_CHARS].tolist())[:EXAMPLE_CHARS]
            found[document] = {"sample_id": document, "text": text}
        if len(found) == NUM_EXAMPLES:
            break
    return list(found.values())


def _domain_shares(domain: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    known = domain[domain >= 0]
    counts = np.bincount(known, minlength=len(names))
    return {name: float(n / len(known)) for name, n in zip(names, counts, strict=True) if n}


def _shares(states: np.ndarray, num_states: int) -> list[float]:
    counts = np.bincount(states, minlength=num_states)
    return (counts / max(counts.sum(), 1)).tolist()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _one_line(text: str, limit: int) -> str:
    return " ".join(text.split())[:limit]


def _plain(text: str) -> Any:
    """Text as it stands: corpora hold square brackets, which rich would read as markup."""
    from rich.text import Text

    return Text(text)
