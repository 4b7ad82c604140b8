# SPDX-License-Identifier: Apache-2.0
"""select on CUDA: which of the Triton kernels a call launches.

Counts and ranks are integers and fp32 steps follow the reference one by one, so the bits are the
reference's; every launch forbids fused multiply-add. Mathematics and cost: docs/ops/select.md.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from ..architecture import INTERPRETER, architecture
from ..hashing import seed_state
from .candidates import Candidates, Quotas, Rule, new_outputs
from .full_kernel import select_fwd_kernel
from .kept_kernel import MAX_CANDIDATES, select_kept_kernel
from .level_kernels import (
    select_compact_kernel,
    select_merge_kernel,
    select_quota_kernel,
    select_score_kernel,
    select_tile_kernel,
)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Constants of the launches.

    Attributes:
        most_full: Candidates of a row that one launch puts in full order.
        most_kept: Candidates of a row of which one launch names the kept ones.
        full, score, tile, merge, compact: Constants of the kernels.
    """

    most_full: int = 1024
    most_kept: int = MAX_CANDIDATES
    full: dict[str, int] = field(
        default_factory=lambda: {"BLOCK_I": 32, "BLOCK_J": 128, "num_warps": 8}
    )
    score: dict[str, int] = field(default_factory=lambda: {"BLOCK_C": 256, "num_warps": 4})
    tile: dict[str, int] = field(
        default_factory=lambda: {"TILE": 512, "BLOCK_I": 32, "BLOCK_J": 128, "num_warps": 8}
    )
    merge: dict[str, int] = field(
        default_factory=lambda: {"TILE": 512, "LOG_TILE": 9, "BLOCK_I": 128, "num_warps": 4}
    )
    compact: dict[str, int] = field(default_factory=lambda: {"BLOCK_C": 4096, "num_warps": 8})


SHAPES = {
    INTERPRETER: Shapes(
        most_full=64,
        most_kept=64,
        full={"BLOCK_I": 32, "BLOCK_J": 16, "num_warps": 4},
        score={"BLOCK_C": 64, "num_warps": 4},
        tile={"TILE": 32, "BLOCK_I": 32, "BLOCK_J": 16, "num_warps": 4},
        merge={"TILE": 32, "LOG_TILE": 5, "BLOCK_I": 64, "num_warps": 4},
        compact={"BLOCK_C": 64, "num_warps": 8},
    ),
    80: Shapes(),
}
"""By compute capability; from 8.0 on the same."""

def kept_shape(num_candidates: int) -> dict[str, int]:
    """Constants of select_kept_kernel for rows of so many candidates (the same on every device)."""
    block = max(32, triton.next_power_of_2(num_candidates))
    warps = 4 if block <= 512 else 8 if block <= 2048 else 16
    return {"BLOCK_C": block, "BLOCK_I": min(block, 128 * warps), "num_warps": warps}


def select_fwd(
    candidates: Candidates, quotas: Quotas | None, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch; arguments checked. Returns order, num_kept, scores."""
    num_rows, num_candidates, _ = candidates.votes.shape
    order, num_kept, scores = new_outputs(candidates)
    if num_rows == 0 or num_candidates == 0:
        return order, num_kept.zero_(), scores
    shapes = SHAPES[architecture(order.device, SHAPES)]
    scored, drawn = _arguments(candidates, rule)
    if quotas is None and not rule.is_full and num_candidates <= shapes.most_kept:
        select_kept_kernel[(num_rows,)](
            *scored, order, num_kept, scores, *drawn, *_limits(candidates, rule), num_candidates,
            **_constants(candidates, rule), **kept_shape(num_candidates),
        )  # fmt: skip
    elif quotas is None and rule.is_full and num_candidates <= shapes.most_full:
        select_fwd_kernel[(num_rows, triton.cdiv(num_candidates, shapes.full["BLOCK_I"]))](
            *scored, order, num_kept.zero_(), scores, *drawn, *_limits(candidates, rule),
            num_candidates, **_constants(candidates, rule), **shapes.full,
        )  # fmt: skip
    else:
        _select_by_levels(candidates, quotas, rule, (order, num_kept.zero_(), scores))
    return order, num_kept, scores


def _select_by_levels(
    candidates: Candidates, quotas: Quotas | None, rule: Rule, out: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Score, sort tiles, merge: two or three launches more with quotas or without full order."""
    order, num_kept, scores = out
    shapes = SHAPES[architecture(order.device, SHAPES)]
    num_rows, num_candidates = order.shape
    scored, drawn = _arguments(candidates, rule)
    keys = torch.empty_like(candidates.ids)
    select_score_kernel[(num_rows, triton.cdiv(num_candidates, shapes.score["BLOCK_C"]))](
        *scored, keys, scores, *drawn, num_candidates,
        **_constants(candidates, rule), **shapes.score,
    )  # fmt: skip
    tiles = [torch.empty_like(keys), torch.empty_like(keys), torch.empty_like(order)]
    tiles.append(torch.empty_like(keys))
    merge_grid = (num_rows, triton.cdiv(num_candidates, shapes.merge["BLOCK_I"]))
    if quotas is not None:
        groups = torch.empty_like(order)
        _sort_tiles(candidates, keys, quotas.groups, [*tiles, groups], by_group=True)
        select_quota_kernel[merge_grid](
            keys, candidates.lengths, *tiles, groups, *quotas.limits(),
            num_candidates, quotas.num_groups, **shapes.merge,
        )  # fmt: skip
    _sort_tiles(candidates, keys, order, [*tiles, order], by_group=False)
    full_order = order if rule.is_full else torch.empty_like(order)
    is_kept = torch.empty_like(order, dtype=torch.int8)
    select_merge_kernel[merge_grid](
        candidates.lengths, *tiles, full_order, num_kept, is_kept,
        *_limits(candidates, rule), num_candidates, IS_FULL=rule.is_full, **shapes.merge,
    )  # fmt: skip
    if not rule.is_full:
        select_compact_kernel[(num_rows,)](
            keys, full_order, is_kept, num_kept, order, num_candidates, **shapes.compact
        )


def _sort_tiles(
    candidates: Candidates, keys: Tensor, groups: Tensor, tiles: list[Tensor], *, by_group: bool
) -> None:
    """Sort the candidates of each tile of each row, within their groups or altogether."""
    num_rows, num_candidates = keys.shape
    shape = SHAPES[architecture(keys.device, SHAPES)].tile
    select_tile_kernel[(num_rows, triton.cdiv(num_candidates, shape["BLOCK_I"]))](
        keys, candidates.ids, candidates.lengths, groups, *tiles, num_candidates,
        BY_GROUP=by_group, **shape,
    )  # fmt: skip


def _arguments(candidates: Candidates, rule: Rule) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """What every scoring kernel takes first, and what it takes after its outputs."""
    tensors = (
        candidates.votes, candidates.theta, candidates.shift, candidates.scale,
        candidates.ids, candidates.lengths,
    )  # fmt: skip
    return tensors, (signed_state(rule.seed), rule.temperature)


def _limits(candidates: Candidates, rule: Rule) -> tuple[int, int]:
    """Both limits; the first fits 32 bits."""
    return min(rule.max_count, candidates.votes.shape[1]), rule.budget_tokens


def _constants(candidates: Candidates, rule: Rule) -> dict[str, Any]:
    """Constants of every scoring kernel."""
    return {
        "A": candidates.votes.shape[2],
        "HAS_NOISE": rule.temperature != 0.0,
        "enable_fp_fusion": False,
    }


def signed_state(seed: int) -> int:
    """State of the hash after the seed as a signed 32-bit number: always one argument type."""
    state = seed_state(seed)
    return state - (1 << 32) if state >= 1 << 31 else state
