# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native select: allocate, hand over views, call once."""

from torch import Tensor

from .. import _native
from .candidates import Candidates, Quotas, Rule, new_outputs


def select_native(
    candidates: Candidates, quotas: Quotas | None, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Select candidates on the CPU; arguments checked. Returns order, num_kept, scores."""
    order, num_kept, scores = new_outputs(candidates)
    _native.select(
        _native.Candidates(
            candidates.votes.numpy(),
            candidates.theta.numpy(),
            candidates.lengths.numpy(),
            candidates.ids.numpy(),
            candidates.shift.numpy(),
            candidates.scale.numpy(),
        ),
        None if quotas is None else _native_quotas(quotas),
        _native.SelectRule(
            rule.seed, rule.temperature, rule.max_count, rule.budget_tokens, rule.is_full
        ),
        order.numpy(),
        num_kept.numpy(),
        scores.numpy(),
        0,
        len(num_kept),
    )
    return order, num_kept, scores


def _native_quotas(quotas: Quotas) -> _native.GroupQuotas:
    """Hand over views."""
    return _native.GroupQuotas(
        quotas.groups.numpy(),
        None if quotas.max_count is None else quotas.max_count.numpy(),
        None if quotas.budget_tokens is None else quotas.budget_tokens.numpy(),
    )
