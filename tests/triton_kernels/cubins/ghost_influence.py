# SPDX-License-Identifier: Apache-2.0
"""ghost_influence as its launchers specialise it: linear layers, rows, sums of documents."""

import torch
from case import Case
from moot.triton_kernels.ghost_influence import kernel, rows_kernel

TRITON = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64",
}  # fmt: skip


def make_linear(row, dtype, inputs, outputs, has_bias=False):
    """One specialisation of the matrix product with the row dot."""
    constants = kernel.constants(row, dtype, inputs, outputs, has_bias)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    wide = TRITON[torch.promote_types(dtype, torch.float32)]
    types = {f"{name}{i}": f"*{TRITON[dtype]}" for name in "xyg" for i in range(kernel.GROUP)}
    types |= {"bias": f"*{wide}", "partials": f"*{wide}", "T": "i32", "N": "i32", "K": "i32"}
    form = "Gtb" if constants["IS_TRANSPOSED"] else "Ga"
    return Case(
        name=f"ghost_influence-{TRITON[dtype]}-{form}-{inputs}" + "-bias" * has_bias,
        kernel=kernel.ghost_influence_fwd_kernel, types=types, constants=constants,
        options=options, capabilities=(row,), tensor_core=dtype.itemsize == 2,
        divisible=("N", "K") if inputs % 16 == outputs % 16 == 0 else (),
    )  # fmt: skip


def make_rows(name, x, y, flags):
    """One specialisation of the row dot."""
    types = {
        "x": f"*{x}", "y": f"*{y}", "rows": "*i64", "scale": "*fp32", "bias": "*fp32",
        "out": "*fp32", "T": "i32", "D": "i32", "V": "i32",
    }  # fmt: skip
    constants = {
        f"HAS_{flag}": flag in flags for flag in ("X", "ROWS", "SCALE", "BIAS")
    } | {"BLOCK_T": rows_kernel.BLOCK_T, "BLOCK_D": rows_kernel.BLOCK_D}  # fmt: skip
    return Case(
        name=f"ghost_influence-{name}", kernel=rows_kernel.row_dot_fwd_kernel, types=types,
        constants=constants, options={"num_warps": rows_kernel.ROW_WARPS},
        divisible=("D",), loads_128=True,
    )  # fmt: skip


SHAPES = [
    (torch.bfloat16, 2048, 2048, False), (torch.bfloat16, 2048, 2048, True),
    (torch.bfloat16, 2048, 8192, False), (torch.bfloat16, 2064, 2064, False),
    (torch.float16, 1001, 1000, False), (torch.float16, 1000, 1001, False),
    (torch.float32, 2048, 2048, False), (torch.float32, 2048, 8192, False),
    (torch.float64, 2048, 2048, False),
]  # fmt: skip
CASES = [
    *(make_linear(row, *shape) for row in (80, 90, 100, 120) for shape in SHAPES),
    make_rows("norm", "bf16", "bf16", ("X", "SCALE", "BIAS")),
    make_rows("embedding", "fp32", "bf16", ("X", "ROWS")),
    Case(
        name="ghost_influence-sums", kernel=rows_kernel.document_sums_kernel,
        types={"partials": "*fp32", "cu_seqlens": "*i64", "out": "*fp64", "T": "i32", "L": "i32"},
        constants={"BLOCK_T": rows_kernel.BLOCK_SUM}, options={"num_warps": rows_kernel.SUM_WARPS},
    ),
    Case(
        name="ghost_influence-combine", kernel=kernel.ghost_influence_combine_kernel,
        types={
            "partials": "*fp32", "out": "*fp32", "num_n": "i32", "T": "i32",
            **{f"r{i}": "i32" for i in range(kernel.GROUP)},
        },
        constants={"BLOCK_T": kernel.COMBINE_TOKENS}, options={"num_warps": kernel.COMBINE_WARPS},
    ),
]  # fmt: skip
