# SPDX-License-Identifier: Apache-2.0
"""ngram_log_ratio as its launcher specialises it."""

from case import Case
from moot.triton_kernels.ngram_log_ratio import kernel
from moot.triton_kernels.ngram_log_ratio.tables import STEP, order_bits


def make_case(name, tokens, orders, splits):
    """One specialisation; a split document gives int64 partial sums."""
    return Case(
        name=name, kernel=kernel.ngram_log_ratio_fwd_kernel,
        types={
            "tokens": tokens, "cu_seqlens": "*i64", "table": "*i32",
            "out": "*fp64" if splits == 1 else "*i64", "bucket_mask": "i32",
        },
        constants={
            "STEP": STEP, "ORDERS": order_bits(orders), "SPLITS": splits,
            "BLOCK_T": kernel.BLOCK_T,
        },
        options={"num_warps": kernel.NUM_WARPS},
    )  # fmt: skip


CASES = [
    make_case("ngram_log_ratio-u16-bigrams", "*u16", (1, 2), 1),
    make_case("ngram_log_ratio-i64-trigrams-split", "*i64", (1, 2, 3), 8),
]
