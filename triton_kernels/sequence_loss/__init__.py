# SPDX-License-Identifier: Apache-2.0
"""sequence_loss: what each document costs the model, from its hidden states; no logits in memory.

Triton kernels on CUDA, the plain torch of `reference.py` on the CPU. A document's losses do not
depend on the documents beside it; nothing is read back to the host; nothing here is
differentiable. Mathematics and cost: docs/ops/sequence_loss.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..ghost_influence import document_sums
from ..registry import register
from . import reference
from .checks import check_head, check_reference

__all__ = ["sequence_loss", "token_losses"]


def sequence_loss(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference_losses: Tensor | None = None,
    *,
    softcap: float | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return the summed cross-entropy of every document, minus its stored reference loss.

    Logits are products in the dtype of `hidden`, summed in fp32 or better; the documents' sums
    are fp64, in the order of `document_sums`. Deterministic.

    Args:
        hidden: [T, H] floating, h_t, the model's output before the head.
        head_weight: [V, H] floating, W; cast to the dtype of `hidden` at each call: keep it there.
        targets: [T] int32 or int64, y_t in [0, V), what the logits of token t should have named
            (already shifted). A negative target, torch's ignore_index -100 among them, predicts
            nothing: loss and reference count as 0.
        cu_seqlens: [N + 1] int64, rising from 0 to T: document i is [cu[i], cu[i + 1]).
        reference_losses: nats, floating: [T] subtracted token by token, where a target is, or
            [N] subtracted from the sums; None for none. Where N = T they are taken as the tokens'.
        softcap: c > 0 for logits c tanh(W h / c); None for W h.
        implementation: "auto" takes the kernel on CUDA and the reference on the CPU; there is no
            native routine. "triton" on CPU tensors needs TRITON_INTERPRET=1.

    Returns:
        [N] float64, nats; 0 (less its reference) for a document without targets.

    Raises:
        ValueError: shapes, dtypes, devices or softcap do not fit; on the CPU also a target past
            the vocabulary or a `cu_seqlens` that does not cut [0, T). On CUDA contents are not
            looked at; there a target past the vocabulary makes its document NaN.

    Source: docs/ops/sequence_loss.md.
    """
    check_reference(reference_losses, hidden, cu_seqlens)
    by_token, by_document = reference_losses, None
    if reference_losses is not None and len(reference_losses) != len(hidden):
        by_token, by_document = None, reference_losses
    losses = token_losses(
        hidden, head_weight, targets, cu_seqlens, by_token,
        softcap=softcap, implementation=implementation,
    )  # fmt: skip
    sums = document_sums(losses, cu_seqlens, implementation=implementation)
    return sums if by_document is None else sums - by_document


def token_losses(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference_losses: Tensor | None = None,
    *,
    softcap: float | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return each token's cross-entropy minus its reference: what `sequence_loss` sums.

    Args:
        hidden: [T, H], as in sequence_loss; so are head_weight, targets, cu_seqlens, softcap and
            implementation.
        head_weight: [V, H].
        targets: [T].
        cu_seqlens: [N + 1]; on the CPU products are taken document by document.
        reference_losses: [T] floating, nats, or None.
        softcap: c > 0 or None.
        implementation: "auto", "reference" or "triton".

    Returns:
        [T], fp32 (fp64 for fp64 hidden), nats; 0 where the target is negative. Of a token that
        the model is sure of the loss may be below 0 by a rounding error of its logits.

    Raises:
        ValueError: as sequence_loss.
    """
    check_head(hidden, head_weight, targets, cu_seqlens, softcap)
    if reference_losses is not None and reference_losses.shape != targets.shape:
        raise ValueError(
            f"reference_losses must have shape [{len(hidden)}], not {list(reference_losses.shape)}"
        )
    check_reference(reference_losses, hidden, cu_seqlens)
    return TOKEN_LOSSES(
        hidden, head_weight, targets, cu_seqlens, reference_losses, softcap or 0.0, implementation
    )


def _run(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference_losses: Tensor | None,
    softcap: float,
    implementation: str,
) -> Tensor:
    """Choose an implementation; arguments are checked."""
    if choose(implementation, hidden.device, has_native=False) == "reference":
        return reference.token_losses(
            hidden, head_weight, targets, cu_seqlens, reference_losses, softcap
        )
    from .kernel import token_losses_fwd

    return token_losses_fwd(hidden, head_weight, targets, reference_losses, softcap)


def _fake(hidden: Tensor, *_arguments: object) -> Tensor:
    """Return [T]."""
    return hidden.new_empty(
        hidden.shape[0], dtype=torch.promote_types(hidden.dtype, torch.float32)
    )


TOKEN_LOSSES = register(
    "token_losses(Tensor hidden, Tensor head_weight, Tensor targets, Tensor cu_seqlens, "
    "Tensor? reference_losses, float softcap, str implementation) -> Tensor",
    _run,
    _fake,
)
