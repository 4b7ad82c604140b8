# SPDX-License-Identifier: Apache-2.0
"""sequence_loss as its launcher specialises it: through descriptors, through pointers."""

import torch
from case import Case
from moot.triton_kernels.sequence_loss import kernel
from moot.triton_kernels.vocabulary_kernel import combine_constants

TRITON = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64",
}  # fmt: skip


def make_case(row, dtype, width, softcap=0.0, tiled=False):
    """One specialisation of the matrix product with the online logsumexp."""
    constants = kernel.constants(row, dtype, width, softcap, tiled)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    name, wide = TRITON[dtype], f"*{TRITON[torch.promote_types(dtype, torch.float32)]}"
    types = {"hidden": f"*{name}", "weight": f"*{name}", "maxima": wide, "sums": wide}
    if tiled:
        rows = {"hidden": constants["BLOCK_T"], "weight": constants["BLOCK_V"]}
        for matrix, block in rows.items():
            types[matrix] = f"tensordesc<{name}[{block}, {constants['BLOCK_H']}]>"
    form = "tiled" if tiled else "pointers"
    return Case(
        name=f"sequence_loss-{name}-{width}-{form}" + "-cap" * (softcap > 0),
        kernel=kernel.sequence_loss_fwd_kernel, types={**types, "T": "i32", "V": "i32"},
        constants=constants, options=options, capabilities=(row,),
        tensor_core=dtype.itemsize == 2,
    )  # fmt: skip


def make_combine(dtype, softcap):
    """One specialisation of the second kernel."""
    wide = f"*{TRITON[torch.promote_types(dtype, torch.float32)]}"
    constants = combine_constants(dtype, 2048, softcap) | {"HAS_REFERENCE": True}
    options = {"num_warps": constants.pop("num_warps")}
    return Case(
        name=f"sequence_loss-{TRITON[dtype]}-combine" + "-cap" * (softcap > 0),
        kernel=kernel.sequence_loss_combine_kernel,
        types={
            "maxima": wide, "sums": wide, "hidden": f"*{TRITON[dtype]}",
            "weight": f"*{TRITON[dtype]}", "targets": "*i64", "reference": "*fp32",
            "losses": wide, "S": "i32", "T": "i32", "V": "i32",
        },
        constants=constants, options=options, loads_128=True,
    )  # fmt: skip


ROWS = (80, 90, 100, 120)
POINTERS = [
    (torch.bfloat16, 2048), (torch.bfloat16, 2048, 30.0), (torch.float16, 1004),
    (torch.float32, 2048), (torch.float64, 2048),
]  # fmt: skip
TILED = [
    (torch.bfloat16, 2048, 0.0, True), (torch.bfloat16, 4096, 30.0, True),
    (torch.float16, 1000, 0.0, True),
]  # fmt: skip
CASES = [
    *(make_case(row, *shape) for row in ROWS for shape in POINTERS),
    *(make_case(row, *shape) for row in ROWS[1:] for shape in TILED),
    make_combine(torch.bfloat16, 0.0),
    make_combine(torch.bfloat16, 30.0),
    make_combine(torch.float64, 30.0),
]
