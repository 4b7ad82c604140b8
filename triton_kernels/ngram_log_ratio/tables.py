# SPDX-License-Identifier: Apache-2.0
"""The table of log ratios that ngram_log_ratio reads, and how it is made from counts.

Legend: B buckets.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..document_scores.tables import check_tensor

STEP = 2.0**-20
"""A log ratio is stored as a whole number of steps, so that sums are exact in any order."""


@dataclass(frozen=True)
class LogRatioTable:
    """What an n-gram says about which of two corpora a document is from.

    Args:
        table: [B] int32, log(p / q) of each bucket in steps of 2**-20; B a power of two.
        orders: lengths of the n-grams, an ascending choice of 1, 2, 3.

    Raises:
        ValueError: A shape, a dtype or an order that does not fit.
    """

    table: Tensor
    orders: tuple[int, ...]

    def __post_init__(self) -> None:
        check_tensor("table", self.table, torch.int32, (None,))
        check_rule(len(self.table), self.orders)
        object.__setattr__(self, "orders", tuple(self.orders))

    def to(self, device: torch.device | str) -> "LogRatioTable":
        """Copy the table to a device (no copy where it is there already)."""
        return LogRatioTable(self.table.to(device), self.orders)


def check_rule(num_buckets: int, orders: tuple[int, ...]) -> None:
    """Raise ValueError for a number of buckets or orders that do not fit."""
    if num_buckets < 1 or num_buckets & (num_buckets - 1) or num_buckets > 1 << 31:
        raise ValueError(f"there are {num_buckets} buckets; it must be a power of two")
    if not orders or list(orders) != sorted({*orders} & {1, 2, 3}):
        raise ValueError(f"orders is {orders}; it must be an ascending choice of 1, 2, 3")


def order_bits(orders: tuple[int, ...]) -> int:
    """Orders as a set of bits: bit k is set for n-grams of k tokens."""
    return sum(1 << order for order in orders)


def log_ratio_table(
    target_counts: Tensor,
    source_counts: Tensor,
    orders: tuple[int, ...],
    *,
    smoothing: float = 1e-8,
) -> LogRatioTable:
    """Make a table from the n-gram counts of the corpus one wants and of the corpus one has.

    L = log(p + smoothing) - log(q + smoothing), with p and q the shares of the buckets in either
    corpus; rounded to steps of 2**-20, so each n-gram's error is at most 2**-21. The default is
    DSIR's own smoothing. `smoothing = 1 / num_buckets` keeps rare buckets close to 0.

    Args:
        target_counts: [B] int64, not negative, as ngram_counts gives them; not all 0.
        source_counts: [B] int64, likewise; add up those of several calls.
        orders: As given to ngram_counts.
        smoothing: Added to each share, > 0.

    Returns:
        LogRatioTable on the device of the counts.

    Raises:
        ValueError: Counts or a setting that do not fit.

    Source: Xie et al. 2023 (arXiv:2302.03169), section 4; docs/ops/ngram_log_ratio.md.
    """
    check_tensor("target_counts", target_counts, torch.int64, (None,))
    check_tensor("source_counts", source_counts, torch.int64, (len(target_counts),))
    check_rule(len(target_counts), orders)
    if not (math.isfinite(smoothing) and smoothing > 0):
        raise ValueError(f"smoothing is {smoothing}; it must be finite and above 0")
    logs = []
    for name, counts in (("target_counts", target_counts), ("source_counts", source_counts)):
        if bool((counts < 0).any()) or not bool((counts > 0).any()):
            raise ValueError(f"{name} must not be negative nor all 0; count some documents first")
        logs.append((counts.double() / counts.sum() + smoothing).log())
    steps = ((logs[0] - logs[1]) / STEP).round()
    return LogRatioTable(steps.to(torch.int32), orders)
