# SPDX-License-Identifier: Apache-2.0
"""Next-token cross-entropy over packed rows: sums, single tokens, and the logits' gradient.

Labels are UNSHIFTED (-100 at the first token of every segment and at padding). The shift by one
moves the labels, never the logits: a slice of the logits would copy the largest tensor of a step.
For the same reason everything here works in pieces of rows that stay in the cache.

Shape suffixes: B rows, L positions, T = B * L tokens, C tokens of a piece, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100
PIECE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Logits handled at once: what a CPU's cache holds; on CUDA, few launches."""


def loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy and the number of tokens it predicts.

    Sums, not means: gradients of several passes add up exactly, and are divided once by the
    total number of predicted tokens. The backward pass OVERWRITES the logits with their gradient
    (a second backward raises); take `token_losses` where they are needed afterwards.

    Args:
        logits: [B, L, V].
        labels: [B, L] int64, unshifted.

    Returns:
        The sum in nats, a scalar with gradient; the count, an int64 scalar on the same device.
    """
    targets_BL = next_token_targets(labels)
    total = _SummedCrossEntropy.apply(logits.flatten(0, 1), targets_BL.flatten())
    return total, (targets_BL != IGNORED_LABEL).sum()


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each position's next token, in nats.

    Args:
        logits: [B, L, V].
        labels: [B, L] int64, unshifted.

    Returns:
        [B, L], fp32 or better, with gradient; 0 where nothing is predicted.
    """
    logits_TV = logits.flatten(0, 1)
    logits_TV = logits_TV.to(_wide_dtype(logits_TV))
    targets_T = next_token_targets(labels).flatten()
    losses_T = F.cross_entropy(logits_TV, targets_T, ignore_index=IGNORED_LABEL, reduction="none")
    return losses_T.view(labels.shape)


@torch.no_grad()
def loss_and_gradient(logits: Tensor, labels: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of the summed loss into `out` and return the loss of each token.

    Args:
        logits: [B, L, V]; left as they are, so a model may have kept them for its own backward.
        labels: [B, L] int64, unshifted.
        out: [B, L, V] contiguous, dtype of the logits; wholly overwritten.

    Returns:
        [B, L], fp32 or better; 0 where nothing is predicted.
    """
    targets_T = next_token_targets(labels).flatten()
    losses_T = torch.empty(targets_T.shape, dtype=_wide_dtype(logits), device=logits.device)
    pieces = zip(
        _pieces(logits.flatten(0, 1), targets_T), _pieces(out.flatten(0, 1), losses_T), strict=True
    )
    for (logits_CV, targets_C), (out_CV, losses_C) in pieces:
        losses_C.copy_(_piece_losses(logits_CV, targets_C))
        _write_gradient(logits_CV, targets_C, out_CV)
    return losses_T.view(labels.shape)


def next_token_targets(labels: Tensor) -> Tensor:
    """Shift unshifted labels [B, L] by one to the left; the last column predicts nothing."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of [T, V] logits whose backward turns the logits into their gradient."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, targets_T: Tensor) -> Tensor:
        """Return the sum of the losses."""
        ctx.save_for_backward(logits_TV, targets_T)
        total = logits_TV.new_zeros((), dtype=_wide_dtype(logits_TV))
        for logits_CV, targets_C in _pieces(logits_TV, targets_T):
            total += _piece_losses(logits_CV, targets_C).sum()
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the logits' own memory, now holding the gradient."""
        logits_TV, targets_T = ctx.saved_tensors
        for logits_CV, targets_C in _pieces(logits_TV, targets_T):
            _write_gradient(logits_CV, targets_C, logits_CV, grad)
        return logits_TV, None


def _piece_losses(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Return the loss of each token, 0 where it is ignored."""
    wide_CV = logits_CV.to(_wide_dtype(logits_CV))
    chosen_C = wide_CV.gather(1, targets_C.clamp_min(0)[:, None])[:, 0]
    return (wide_CV.logsumexp(1) - chosen_C).masked_fill_(targets_C == IGNORED_LABEL, 0.0)


def _write_gradient(
    logits_CV: Tensor, targets_C: Tensor, out_CV: Tensor, grad: Tensor | None = None
) -> None:
    """Write softmax - onehot (times `grad`) into `out_CV`; 0 where a token is ignored."""
    # In fp32 the softmax goes straight to its place; never so over the logits themselves.
    is_direct = out_CV.dtype == _wide_dtype(logits_CV) and out_CV is not logits_CV
    grad_CV = torch.softmax(logits_CV, 1, _wide_dtype(logits_CV), out=out_CV if is_direct else None)
    ones_C1 = grad_CV.new_ones(len(targets_C), 1)
    grad_CV.scatter_add_(1, targets_C.clamp_min(0)[:, None], -ones_C1)
    scale_C1 = ones_C1.masked_fill_((targets_C == IGNORED_LABEL)[:, None], 0.0)
    grad_CV.mul_(scale_C1 if grad is None else scale_C1 * grad)
    if not is_direct:
        out_CV.copy_(grad_CV)


def _pieces(values_TV: Tensor, values_T: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut two tensors along their tokens; all calls for logits of one shape cut alike."""
    width = values_TV.shape[1]
    rows = max(1, PIECE_ELEMENTS.get(values_TV.device.type, 1 << 22) // width)
    return zip(values_TV.split(rows), values_T.split(rows), strict=True)


def _wide_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype losses are computed in: fp32 or better."""
    return torch.promote_types(x.dtype, torch.float32)
