# SPDX-License-Identifier: Apache-2.0
"""The mean loss per token of a model over documents: reference and held-out loss.

Every document stands alone under the document mask, longer ones cut over rows, so the number
does not depend on how they are packed (up to rounding of the model's own arithmetic). In
evaluation mode, without gradients; flags and generators are left as they were. Deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .cross_entropy import token_losses
from .model import autocast
from .rows import pack, predicted_tokens
from .untouched import untouched


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model makes of a set of documents."""

    loss: float
    """Mean over all predicted tokens, in nats."""
    num_tokens: int
    """Predicted tokens."""
    domain_losses: dict[int, float]
    """The same mean within each domain that has predicted tokens; empty without domains."""


def evaluate(
    model: nn.Module,
    documents: Sequence[np.ndarray | Tensor],
    *,
    seq_len: int,
    rows_per_pass: int = 16,
    domains: Sequence[int] | np.ndarray | None = None,
) -> Evaluation:
    """Measure the mean loss per predicted token.

    Args:
        model: called as model(input_ids, position_ids) -> logits.
        documents: n 1-D arrays of token ids; a document under two tokens predicts nothing.
        seq_len: length of a row, in tokens; longer documents are cut.
        rows_per_pass: rows of one forward pass.
        domains: [n] integers, or None.

    Returns:
        Means, added in fp64 in a fixed order.

    Raises:
        ValueError: no document has two tokens, or `domains` has another length.
    """
    arrays = [np.asarray(document) for document in documents]
    predicted = predicted_tokens(np.array([len(a) for a in arrays], dtype=np.int64), seq_len)
    if predicted.sum() == 0:
        raise ValueError(f"none of the {len(arrays)} documents has two tokens; nothing to measure")
    sums = np.zeros(len(arrays))
    device = next(model.parameters()).device
    with untouched(model), torch.no_grad():
        for rows in pack(arrays, seq_len).passes(rows_per_pass * seq_len, device):
            with autocast(device):
                logits = model(rows.input_ids, rows.position_ids)
            losses = token_losses(logits, rows.labels)
            rows.add_document_sums(losses, sums)
    total = int(predicted.sum())
    return Evaluation(float(sums.sum() / total), total, _by_domain(sums, predicted, domains))


def _by_domain(
    sums: np.ndarray, predicted: np.ndarray, domains: Sequence[int] | np.ndarray | None
) -> dict[int, float]:
    """Return the mean loss within each domain."""
    if domains is None:
        return {}
    numbers = np.asarray(domains)
    if numbers.shape != sums.shape:
        raise ValueError(f"domains must have one number for each of the {len(sums)} documents")
    chosen = {int(number): numbers == number for number in np.unique(numbers)}
    return {
        number: float(sums[at].sum() / predicted[at].sum())
        for number, at in chosen.items()
        if predicted[at].sum() > 0
    }
