# SPDX-License-Identifier: Apache-2.0
"""gradient_sketch as its launcher specialises it."""

import torch
from case import Case
from moot.triton_kernels.gradient_sketch import kernel

TRITON = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64",
}  # fmt: skip


def make_case(row, dtype, widths, ranks=(64, 64)):
    """One specialisation of the chunk's kernel."""
    constants = kernel.constants(row, dtype, widths, ranks)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    names = ("activations", "output_grads", "input_projection", "output_projection")
    types = dict.fromkeys(names, f"*{TRITON[dtype]}")
    types |= {"cu_seqlens": "*i64"} | dict.fromkeys(("T", "N", "IN", "OUT", "P", "Q"), "i32")
    types["partials"] = f"*{TRITON[torch.promote_types(dtype, torch.float32)]}"
    sizes = dict(zip(("IN", "OUT", "P", "Q"), (*widths, *ranks), strict=True))
    shape = "x".join(str(size) for size in sizes.values())
    return Case(
        name=f"gradient_sketch-{TRITON[dtype]}-{shape}", kernel=kernel.gradient_sketch_fwd_kernel,
        types=types, constants=constants, options=options, capabilities=(row,),
        tensor_core=dtype.itemsize == 2,
        divisible=tuple(name for name, size in sizes.items() if size % 16 == 0),
    )  # fmt: skip


SHAPES = [
    (torch.bfloat16, (2048, 2048)), (torch.bfloat16, (2064, 8192)),
    (torch.float16, (1001, 1000)), (torch.float32, (1001, 1000)),
    (torch.bfloat16, (1024, 1024), (8, 8)),
    (torch.float32, (2048, 2048)), (torch.float64, (1024, 1024)),
]  # fmt: skip
CASES = [
    *(make_case(row, *shape) for row in (80, 90, 100, 120) for shape in SHAPES),
    Case(
        name="gradient_sketch-combine", kernel=kernel.gradient_sketch_combine_kernel,
        types={
            "partials": "*fp32", "cu_seqlens": "*i64", "out": "*fp32", "T": "i32", "SIZE": "i32",
        },
        constants={"BLOCK_T": 128, "BLOCK_SUM": kernel.BLOCK_SUM},
        options={"num_warps": kernel.SUM_WARPS},
    ),
]  # fmt: skip
