# SPDX-License-Identifier: Apache-2.0
"""novelty as its launcher specialises it, for each architecture's tiles."""

import torch
from case import Case
from moot.triton_kernels.novelty import kernel

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def main_case(row, dtype, dim):
    """The matrix product; on tensor cores for 16-bit elements."""
    constants = kernel.constants(row, dtype, dim)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    name = NAMES[dtype]
    return Case(
        name=f"novelty-{name}-{dim}", kernel=kernel.novelty_fwd_kernel,
        types={
            "vectors": f"*{name}", "centroids": f"*{name}", "inverse_norms": "*fp32",
            "largest": "*fp32", "nearest": "*i32", "N": "i32", "K": "i32", "share": "i32",
        },
        constants=constants, options=options, capabilities=(row,),
        tensor_core=dtype != torch.float32,
    )  # fmt: skip


def finish_case(dtype, dim):
    """The kernel that puts the shares together."""
    name = NAMES[dtype]
    return Case(
        name=f"novelty-finish-{name}-{dim}", kernel=kernel.novelty_finish_kernel,
        types={
            "vectors": f"*{name}", "largest": "*fp32", "share_nearest": "*i32",
            "similarity": "*fp32", "nearest": "*i32", "N": "i32", "num_shares": "i32",
        },
        constants={
            "D": dim, "BLOCK_N": kernel.FINISH_VECTORS, "BLOCK_D": kernel.FINISH_DIMENSIONS,
        },
        options={"num_warps": kernel.FINISH_WARPS},
    )  # fmt: skip


SHAPES = [(torch.bfloat16, 768), (torch.float16, 1000), (torch.float32, 768)]
CASES = [
    *(main_case(row, *shape) for row in kernel.TILES if row for shape in SHAPES),
    finish_case(torch.bfloat16, 768),
    finish_case(torch.float32, 100),
]
