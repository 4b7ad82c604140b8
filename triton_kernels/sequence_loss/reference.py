# SPDX-License-Identifier: Apache-2.0
"""Token losses in plain torch: the formulas of docs/ops/sequence_loss.md and nothing else.

No shape checks (the op makes them) and no triton. Shape suffixes: T tokens, C tokens of a chunk,
V vocabulary, H width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 512
"""Tokens whose logits stand in memory at a time."""


def token_losses(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    cu_seqlens: Tensor,
    reference_losses_T: Tensor | None,
    softcap: float,
) -> Tensor:
    """Return logsumexp(z_t) - z_t[y_t] - reference_t for every token, 0 for y_t < 0; [T]."""
    weight_VH = wide(weight_VH.to(hidden_TH.dtype))
    losses_T = weight_VH.new_empty(len(hidden_TH))
    for rows in chunks(cu_seqlens):
        logits_CV = logits(hidden_TH[rows], weight_VH, softcap)
        losses_T[rows] = logits_CV.logsumexp(-1) - at_targets(logits_CV, targets_T[rows])
    if reference_losses_T is not None:
        losses_T -= reference_losses_T
    return losses_T.masked_fill(targets_T < 0, 0.0)


def chunks(cu_seqlens: Tensor) -> Iterator[slice]:
    """Cut every document into chunks from its first token on: neighbours change no product."""
    bounds = cu_seqlens.tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        for first in range(start, stop, CHUNK):
            yield slice(first, min(first + CHUNK, stop))


def logits(hidden_CH: Tensor, weight_VH: Tensor, softcap: float) -> Tensor:
    """Return z = W h, capped to softcap * tanh(z / softcap) unless softcap is 0; [C, V]."""
    # A copy: a matrix product may take other steps for another alignment in memory.
    logits_CV = hidden_CH.to(weight_VH.dtype, copy=True) @ weight_VH.T
    return softcap * (logits_CV / softcap).tanh() if softcap else logits_CV


def at_targets(values_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Return values[t, y_t]; any value for y_t < 0."""
    return values_CV.gather(1, targets_C.long().clamp(min=0)[:, None]).squeeze(1)


def wide(x: Tensor) -> Tensor:
    """Return x in fp32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
