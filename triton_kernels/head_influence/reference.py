# SPDX-License-Identifier: Apache-2.0
"""Head influence in plain torch: the formulas of docs/ops/head_influence.md and nothing else.

No shape checks (the op makes them) and no triton. Shape suffixes: T tokens, C tokens of a chunk,
V vocabulary, H width.
"""

from __future__ import annotations

from torch import Tensor

from ..sequence_loss.reference import at_targets, chunks, logits, wide


def token_influences(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    direction_VH: Tensor,
    targets_T: Tensor,
    cu_seqlens: Tensor,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """Return E_{v~p}[u_v] - u_y and logsumexp(z) - z_y for every token, 0 for y < 0; [T] each."""
    weight_VH = wide(weight_VH.to(hidden_TH.dtype))
    direction_VH = wide(direction_VH.to(hidden_TH.dtype))
    influences_T, losses_T = weight_VH.new_empty(2, len(hidden_TH))
    for rows in chunks(cu_seqlens):
        targets_C = targets_T[rows]
        logits_CV = logits(hidden_TH[rows], weight_VH, softcap)
        slopes_CV = logits(hidden_TH[rows], direction_VH, 0.0)
        if softcap:
            slopes_CV = slopes_CV * (1 - (logits_CV / softcap).square())
        expected_C = (logits_CV.softmax(-1) * slopes_CV).sum(-1)
        influences_T[rows] = expected_C - at_targets(slopes_CV, targets_C)
        losses_T[rows] = logits_CV.logsumexp(-1) - at_targets(logits_CV, targets_C)
    is_masked_T = targets_T < 0
    return influences_T.masked_fill(is_masked_T, 0.0), losses_T.masked_fill(is_masked_T, 0.0)
