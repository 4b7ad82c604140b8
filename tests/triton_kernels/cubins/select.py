# SPDX-License-Identifier: Apache-2.0
"""select as its launcher specialises it."""

from case import Case
from moot.triton_kernels.select import full_kernel, kept_kernel, kernel, level_kernels

SHAPES = kernel.SHAPES[80]
SCORED = {
    "votes": "*fp32", "theta": "*fp32", "shift": "*fp32", "scale": "*fp32", "ids": "*i64",
    "lengths": "*i32", "scores": "*fp32", "seed_state": "i32", "temperature": "fp32", "C": "i32",
}  # fmt: skip
LIMITED = {"order": "*i32", "num_kept": "*i32", "max_count": "i32", "budget_tokens": "i64"}
TILED = {
    "keys": "*i64", "ids": "*i64", "lengths": "*i32", "groups": "*i32", "t_key": "*i64",
    "t_id": "*i64", "t_place": "*i32", "t_tokens": "*i64", "t_group": "*i32", "C": "i32",
}  # fmt: skip


def make_case(name, function, types, constants):
    """One specialisation; num_warps stands among the constants, as in the launcher's table."""
    constants = dict(constants)
    options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": False}
    types = {key: value for key, value in types.items() if key in function.arg_names}
    return Case(
        name=name, kernel=function, types=types, constants=constants, options=options, fused=False
    )


def draws(agents, has_noise):
    """Constants of the kernels that score."""
    return {"A": agents, "HAS_NOISE": has_noise}


CASES = [
    make_case("select-3", full_kernel.select_fwd_kernel, SCORED | LIMITED,
              draws(3, True) | SHAPES.full),
    make_case("select-8-greedy", full_kernel.select_fwd_kernel, SCORED | LIMITED,
              draws(8, False) | SHAPES.full),
    *(
        make_case(f"select-kept-{num}", kept_kernel.select_kept_kernel, SCORED | LIMITED,
                  draws(3, True) | kernel.kept_shape(num))
        for num in (500, 1024, 2048, 4096, 8192)
    ),
    make_case("select-score", level_kernels.select_score_kernel, SCORED | {"keys": "*i64"},
              draws(3, True) | SHAPES.score),
    make_case("select-tile", level_kernels.select_tile_kernel, TILED,
              {"BY_GROUP": False} | SHAPES.tile),
    make_case("select-tile-groups", level_kernels.select_tile_kernel, TILED,
              {"BY_GROUP": True} | SHAPES.tile),
    make_case("select-quota", level_kernels.select_quota_kernel,
              TILED | {"group_count": "*i64", "group_tokens": "*i64", "G": "i32"}, SHAPES.merge),
    make_case("select-merge", level_kernels.select_merge_kernel,
              TILED | LIMITED | {"is_kept": "*i8"}, {"IS_FULL": False} | SHAPES.merge),
    make_case("select-compact", level_kernels.select_compact_kernel,
              TILED | LIMITED | {"is_kept": "*i8", "full_order": "*i32"}, SHAPES.compact),
]  # fmt: skip
