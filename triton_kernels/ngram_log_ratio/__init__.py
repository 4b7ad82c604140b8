# SPDX-License-Identifier: Apache-2.0
"""ngram_log_ratio: how much more likely a document is in a target corpus than in the source (DSIR).

Native C++ on the CPU, a Triton kernel on CUDA, plain torch as the specification; all give the same
bits. Mathematics and cost: docs/ops/ngram_log_ratio.md.
"""

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..document_scores.tables import check_tensor
from ..registry import register
from .tables import LogRatioTable, check_rule, log_ratio_table, order_bits

__all__ = ["LogRatioTable", "log_ratio_table", "ngram_counts", "ngram_log_ratio"]

TOKEN_DTYPES = (torch.uint16, torch.int32, torch.int64)
MAX_TOKENS = 1 << 29
"""Tokens a call; three n-grams a token of 2**31 steps each stay below 2**63."""


def ngram_log_ratio(
    tokens: Tensor,
    cu_seqlens: Tensor,
    table: LogRatioTable,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Sum L[bucket] over each document's n-grams.

    A document's sum depends on its own tokens only. To resample a corpus towards the target, hand
    the sums to `select` as votes with temperature 1 (Gumbel top-k). To split the work over
    threads, pass slices of cu_seqlens with the same tokens: the native routine releases the GIL.

    Args:
        tokens: [T] uint16, int32 or int64; the low 32 bits of a token count.
        cu_seqlens: [n+1] int64, not descending, within [0, T]; document i is
            tokens[cu_seqlens[i]:cu_seqlens[i+1]]. It need not start at 0 nor end at T.
        table: The log ratios, on the device of the tokens.
        implementation: As in document_scores.

    Returns:
        [n] float64, new: log(p(document) / q(document)) in nats, bags of n-grams; 0 for a document
        without n-grams. An exact sum of the table's entries, rounded once.

    Raises:
        ValueError: A shape, dtype or device that does not fit; on the CPU also offsets out of
            range. On CUDA contents are not looked at, and offsets are trusted.

    Source: Xie et al. 2023 (arXiv:2302.03169); docs/ops/ngram_log_ratio.md.
    """
    _check(tokens, cu_seqlens)
    if not isinstance(table, LogRatioTable):
        raise ValueError(f"table is a {type(table).__name__}; make it with log_ratio_table")
    if table.table.device != tokens.device:
        raise ValueError(
            f"table lies on {table.table.device}, tokens on {tokens.device}; move them to one"
        )
    choose(implementation, tokens.device)
    return _OP(tokens, cu_seqlens, table.table, order_bits(table.orders), implementation)


def ngram_counts(
    tokens: Tensor,
    cu_seqlens: Tensor,
    num_buckets: int,
    orders: tuple[int, ...],
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Count in which buckets the n-grams of all documents fall, to make a table of.

    Args:
        tokens: As in ngram_log_ratio.
        cu_seqlens: As in ngram_log_ratio.
        num_buckets: B, a power of two.
        orders: lengths of the n-grams, an ascending choice of 1, 2, 3.
        implementation: "native" on the CPU or "reference"; "auto" takes the native routine on the
            CPU, on CUDA the reference, which waits for the device.

    Returns:
        [B] int64, new. Counts of several calls add up.

    Raises:
        ValueError: A shape, dtype, device or setting that does not fit; on the CPU also offsets
            out of range.
    """
    _check(tokens, cu_seqlens)
    check_rule(num_buckets, orders)
    if implementation == "triton":
        raise ValueError("ngram_counts has no Triton kernel; take implementation='auto'")
    if choose(implementation, tokens.device) == "native":
        from .native import ngram_counts_native as run
    else:
        from .reference import ngram_counts_reference as run
    return run(tokens, cu_seqlens, num_buckets, order_bits(orders))


def _check(tokens: Tensor, cu_seqlens: Tensor) -> None:
    """Raise ValueError for tokens or offsets that do not fit."""
    if not isinstance(tokens, Tensor) or tokens.dtype not in TOKEN_DTYPES:
        have = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens are {have}; they must be a uint16, int32 or int64 tensor")
    check_tensor("tokens", tokens, tokens.dtype, (None,))
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"{len(tokens)} tokens in one call; pass at most {MAX_TOKENS} at a time")
    check_tensor("cu_seqlens", cu_seqlens, torch.int64, (None,))
    if len(cu_seqlens) < 1:
        raise ValueError("cu_seqlens is empty; it has one entry more than there are documents")
    if cu_seqlens.device != tokens.device:
        raise ValueError(
            f"cu_seqlens lies on {cu_seqlens.device}, tokens on {tokens.device}; move them to one"
        )
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if bool((cu_seqlens.diff() < 0).any()) or cu_seqlens[0] < 0 or cu_seqlens[-1] > len(tokens):
        raise ValueError(
            f"cu_seqlens must not descend and must lie within [0, {len(tokens)}], the tokens; it "
            f"runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}"
        )


def _run(
    tokens: Tensor, cu_seqlens: Tensor, table: Tensor, orders: int, implementation: str
) -> Tensor:
    """Sum by the implementation that is named last."""
    chosen = choose(implementation, tokens.device)
    if chosen == "reference":
        from .reference import ngram_log_ratio_reference as run
    elif chosen == "native":
        from .native import ngram_log_ratio_native as run
    else:
        from .kernel import ngram_log_ratio_fwd as run
    return run(tokens, cu_seqlens, table, orders)


def _fake(
    tokens: Tensor, cu_seqlens: Tensor, table: Tensor, orders: int, implementation: str
) -> Tensor:
    """An empty result."""
    return tokens.new_empty(cu_seqlens.shape[0] - 1, dtype=torch.float64)


_OP = register(
    "ngram_log_ratio(Tensor tokens, Tensor cu_seqlens, Tensor table, int orders, "
    "str implementation) -> Tensor",
    _run,
    _fake,
)
