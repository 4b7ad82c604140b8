# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native select: allocate, hand over views, call once."""

import torch

from .. import _native
from .candidates import Candidates, Rule, Selection


def select_native(candidates: Candidates, rule: Rule) -> Selection:
    """Select candidates on the CPU; arguments as in select, already checked."""
    shape = candidates.lengths.shape
    selection = Selection(
        order=torch.empty(shape, dtype=torch.int32),
        num_kept=torch.empty(shape[0], dtype=torch.int32),
        scores=torch.empty(shape, dtype=torch.float32),
    )
    _native.select(
        _native.Candidates(
            candidates.votes.numpy(),
            candidates.theta.numpy(),
            candidates.lengths.numpy(),
            candidates.ids.numpy(),
            candidates.shift.numpy(),
            candidates.scale.numpy(),
        ),
        _native.SelectRule(rule.seed, rule.temperature, rule.max_count, rule.budget_tokens),
        selection.order.numpy(),
        selection.num_kept.numpy(),
        selection.scores.numpy(),
        0,
        shape[0],
    )
    return selection
