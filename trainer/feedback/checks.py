# SPDX-License-Identifier: Apache-2.0
"""Two measurements that tell whether a model's rewards can be trusted; both cost a few tokens.

`check_document_mask`: logits of a document must not move when its neighbour in the row changes.
`check_shares`: the ghost shares of some rows must add up to <G, gradient> from autograd, or a
parameter works past the hooks (a weight used without calling its module, say).
"""

from __future__ import annotations

import torch
from torch import nn

from ..model import autocast
from ..rows import Rows
from .capture import GhostCapture
from .reference import pass_gradients
from .scratch import Scratch
from .sharding import inner

MASK_TOKENS = 8
"""Tokens of the neighbour, and of the document behind it."""


@torch.no_grad()
def check_document_mask(model: nn.Module, rows: Rows) -> None:
    """Refuse models in which documents of a row see each other.

    Args:
        model: called with tokens and positions.
        rows: where token ids are taken from, on the model's device.

    Raises:
        RuntimeError: a neighbour changes the logits.
    """
    tokens = rows.input_ids.flatten().unique()[:MASK_TOKENS]
    document = tokens.repeat(MASK_TOKENS)[:MASK_TOKENS]
    neighbours = torch.stack((tokens[:1], tokens[-1:])).expand(2, MASK_TOKENS)
    input_ids = torch.cat((neighbours, document.expand(2, -1)), dim=1)
    positions = torch.arange(MASK_TOKENS, device=tokens.device).repeat(2, 2)
    with autocast(tokens.device):
        logits = model(input_ids, positions)[:, MASK_TOKENS:]
    moved = float((logits[0] - logits[1]).abs().max())
    if moved > _tolerance(logits.dtype, 1e-5, 1e-2) * float(logits.abs().max()):
        raise RuntimeError(
            "documents of one row see each other: a document's logits move by "
            f"{moved:.3g} with its neighbour; mask attention by document (segments start where "
            "position_ids is 0), or pack one document a row"
        )


def check_shares(model: nn.Module, capture: GhostCapture, rows: Rows) -> None:
    """Refuse models whose shares do not add up to <G, gradient>.

    Args:
        model: the captured model.
        capture: with the directions of this refresh.
        rows: a few rows on the model's device.

    Raises:
        RuntimeError: the two numbers differ by more than rounding.
    """
    parameters = list(capture.directions)
    _, gradients = pass_gradients(model, rows, parameters, Scratch())
    exact = inner(gradients, capture.directions.values())
    shares = capture.shares(rows)
    total, mass = float(shares.sum()), float(shares.abs().sum())
    if abs(total - exact) > _tolerance(capture.dtype, 1e-3, 3e-2) * mass:
        raise RuntimeError(
            f"rewards of this model would be wrong: its layers' shares add up to {total:.6g}, "
            f"autograd says {exact:.6g}; call every module that owns a trainable weight, "
            "rather than using the weight directly"
        )


def _tolerance(dtype: torch.dtype, exact: float, half: float) -> float:
    """Choose between the tolerance of fp32 arithmetic and that of bf16."""
    return half if dtype in (torch.bfloat16, torch.float16) else exact
