# SPDX-License-Identifier: Apache-2.0
"""gather_documents as its launcher specialises it."""

from case import Case
from moot.triton_kernels.gather_documents import kernel

PLACE = {
    "cu_seqlens": "*i64", "indices": "*i32", "num_chosen": "*i32", "new_cu": "*i32",
    "source": "*i64", "n": "i32", "K": "i32", "limit": "i32", "stride": "i32", "capacity": "i32",
}  # fmt: skip
COPY = {
    "new_cu": "*i32", "source": "*i64", "positions": "*i64", "K": "i32", "capacity": "i32",
    "row_tokens": "i32", "pad": "i32", "num_tiles": "i32",
}  # fmt: skip


def place_case(name, *, is_cut):
    """The first kernel."""
    constants = dict(kernel.PLACE[80]) | {"HAS_COUNT": True, "IS_CUT": is_cut}
    return Case(
        name=name, kernel=kernel.gather_documents_place_kernel, types=PLACE,
        options={"num_warps": constants.pop("num_warps")}, constants=constants,
    )  # fmt: skip


def copy_case(name, tokens, out, *, has_positions):
    """The second kernel; the capacity is a multiple of 16, as a batch's is."""
    constants = dict(kernel.COPY[80]) | {"HAS_POSITIONS": has_positions}
    return Case(
        name=name, kernel=kernel.gather_documents_fwd_kernel,
        types=COPY | {"tokens": tokens, "out": out},
        options={"num_warps": constants.pop("num_warps")}, constants=constants,
        divisible=("capacity",),
    )  # fmt: skip


CASES = [
    place_case("gather_documents-place-cut", is_cut=True),
    place_case("gather_documents-place-drop", is_cut=False),
    copy_case("gather_documents-u16", "*u16", "*u16", has_positions=False),
    copy_case("gather_documents-u16-i64", "*u16", "*i64", has_positions=True),
    copy_case("gather_documents-i32", "*i32", "*i32", has_positions=False),
    copy_case("gather_documents-i64", "*i64", "*i64", has_positions=False),
]
