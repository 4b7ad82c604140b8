# SPDX-License-Identifier: Apache-2.0
"""select as its launcher specialises it."""

from case import Case
from moot.triton_kernels.select import kernel

TYPES = {
    "votes": "*fp32", "theta": "*fp32", "shift": "*fp32", "scale": "*fp32", "ids": "*i64",
    "lengths": "*i32", "order": "*i32", "num_kept": "*i32", "scores": "*fp32",
    "seed_state": "i32", "temperature": "fp32", "max_count": "i32", "budget_tokens": "i64",
    "C": "i32",
}  # fmt: skip


def make_case(name, agents, has_noise):
    """One specialisation of select."""
    constants = {
        "A": agents, "HAS_NOISE": has_noise, "BLOCK_I": kernel.BLOCK_I, "BLOCK_J": kernel.BLOCK_J,
    }  # fmt: skip
    return Case(
        name=name, kernel=kernel.select_fwd_kernel, types=TYPES, constants=constants,
        options={"num_warps": kernel.NUM_WARPS, "enable_fp_fusion": False}, fused=False,
    )  # fmt: skip


CASES = [make_case("select-3", 3, True), make_case("select-8-greedy", 8, False)]
