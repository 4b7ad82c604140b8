# SPDX-License-Identifier: Apache-2.0
"""head_influence: what each document adds along a direction in the LM head, and no backward.

Triton kernels on CUDA, the plain torch of `reference.py` on the CPU. A document's numbers do not
depend on the documents beside it; nothing is read back to the host; nothing here is
differentiable. Mathematics and cost: docs/ops/head_influence.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..ghost_influence import document_sums
from ..registry import register
from ..sequence_loss.checks import check_device, check_floating, check_head
from . import reference

__all__ = ["HeadInfluence", "head_influence"]


class HeadInfluence(NamedTuple):
    """What one pass over the head tells of every document.

    Attributes:
        influence: [N] float64, <G, gradient of the document's summed loss in the head>.
        loss: [N] float64, nats, the document's summed cross-entropy.
    """

    influence: Tensor
    loss: Tensor


def head_influence(
    hidden: Tensor,
    head_weight: Tensor,
    direction: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    softcap: float | None = None,
    implementation: Implementation = "auto",
) -> HeadInfluence:
    """Return every document's influence through the LM head alone, and its loss.

    The influence is the sum over the document's tokens of E[u_v] - u_y, with u = G h_t and v drawn
    from the model's prediction: the gradient of the head is never formed. Products are taken in
    the dtype of `hidden` and summed in fp32 or better; the documents' sums are fp64, in the order
    of `document_sums`. Deterministic.

    Args:
        hidden: [T, H] floating, h_t, the model's output before the head.
        head_weight: [V, H] floating, W; cast to the dtype of `hidden` at each call: keep it there.
        direction: [V, H] floating, G, the (preconditioned) reference gradient of the head; cast as
            the weight is. Scale it where fp16 would not hold it: influence is linear in it.
        targets: [T] int32 or int64, y_t in [0, V), already shifted; a negative target predicts
            nothing and adds 0 to both results.
        cu_seqlens: [N + 1] int64, rising from 0 to T: document i is [cu[i], cu[i + 1]).
        softcap: c > 0 for logits c tanh(W h / c); None for W h.
        implementation: "auto" takes the kernel on CUDA and the reference on the CPU; there is no
            native routine. "triton" on CPU tensors needs TRITON_INTERPRET=1.

    Returns:
        HeadInfluence; zeros for a document without targets.

    Raises:
        ValueError: shapes, dtypes, devices or softcap do not fit; on the CPU also a target past
            the vocabulary or a `cu_seqlens` that does not cut [0, T). On CUDA contents are not
            looked at; there a target past the vocabulary makes its document NaN.

    Source: docs/ops/head_influence.md.
    """
    check_head(hidden, head_weight, targets, cu_seqlens, softcap)
    if direction.shape != head_weight.shape:
        raise ValueError(
            f"direction must have shape {list(head_weight.shape)}, the head's, "
            f"not {list(direction.shape)}"
        )
    check_floating({"direction": direction})
    check_device(hidden, {"direction": direction})
    partials = TOKEN_INFLUENCES(
        hidden, head_weight, direction, targets, cu_seqlens, softcap or 0.0, implementation
    )
    sums = (document_sums(p, cu_seqlens, implementation=implementation) for p in partials)
    return HeadInfluence(*sums)


def _run(
    hidden: Tensor,
    head_weight: Tensor,
    direction: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    softcap: float,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Choose an implementation; arguments are checked."""
    if choose(implementation, hidden.device, has_native=False) == "reference":
        return reference.token_influences(
            hidden, head_weight, direction, targets, cu_seqlens, softcap
        )
    from .kernel import token_influences_fwd

    return token_influences_fwd(hidden, head_weight, direction, targets, softcap)


def _fake(hidden: Tensor, *_arguments: object) -> tuple[Tensor, Tensor]:
    """Return two times [T]."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_empty(hidden.shape[0], dtype=dtype),
        hidden.new_empty(hidden.shape[0], dtype=dtype),
    )


TOKEN_INFLUENCES = register(
    "head_influence(Tensor hidden, Tensor head_weight, Tensor direction, Tensor targets, "
    "Tensor cu_seqlens, float softcap, str implementation) -> (Tensor, Tensor)",
    _run,
    _fake,
)
