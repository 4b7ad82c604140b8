# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""What the kernels over a vocabulary share: tiles, products, the cap, the dot at the target.

Operands are read through descriptors where the device copies tiles by itself (compute capability
9.0 and newer) and the rows are aligned for it; else through pointers. Both take the same products
in the same order.

Legend: T tokens, V vocabulary, H width; o_ offsets, m_ masks, p_ pointers, b_ block values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

SWIZZLE = 16
"""Tiles of tokens that stand beside each other before the next split: the head stays in L2."""
COMBINE_TOKENS, COMBINE_BYTES, COMBINE_WARPS = 16, 256, 4
"""Tokens of a program, bytes of a row that it reads at a time, warps."""


@triton.jit
def token_tile_and_split(i_program, num_t, num_s, SWIZZLE: tl.constexpr):
    """Return a program's tile of tokens and its split of the vocabulary."""
    width = SWIZZLE * num_s
    first = i_program // width * SWIZZLE
    size = tl.minimum(num_t - first, SWIZZLE)
    return first + i_program % width % size, i_program % width // size


@triton.jit
def tile(
    x, i_row, i_h, num_rows, H: tl.constexpr, TILED: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_ROW: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Return x[i_row : i_row + BLOCK_ROW, i_h : i_h + BLOCK_H], zeros past the end."""
    if TILED:
        b_x = x.load([i_row, i_h])
    else:
        o_row, o_h = i_row + tl.arange(0, BLOCK_ROW), i_h + tl.arange(0, BLOCK_H)
        m_x = (o_row < num_rows)[:, None]
        if H % BLOCK_H != 0:
            m_x = m_x & (o_h < H)[None, :]
        b_x = tl.load(x + o_row.to(tl.int64)[:, None] * H + o_h[None, :], mask=m_x, other=0.0)
    if UPCAST:
        b_x = b_x.to(tl.float32)
    return b_x


@triton.jit
def capped(b_z, SOFTCAP: tl.constexpr):
    """Return SOFTCAP * tanh(z / SOFTCAP); the exponential never overflows."""
    b_exp = tl.exp(tl.abs(b_z) * (-2.0 / SOFTCAP))
    b_size = SOFTCAP * (1.0 - b_exp) / (1.0 + b_exp)
    return tl.where(b_z < 0, -b_size, b_size)


@triton.jit
def dots_at_targets(
    hidden, matrix, o_t, b_y, m_y, H: tl.constexpr, dtype: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Return the dot of each token's hidden state with its target's row of a matrix [V, H]."""
    b_sum = tl.zeros([BLOCK_T, BLOCK_H], dtype)
    for i_h in range(0, H, BLOCK_H):
        o_h = i_h + tl.arange(0, BLOCK_H)
        m_x = m_y[:, None] & (o_h < H)[None, :]
        p_x = hidden + o_t.to(tl.int64)[:, None] * H + o_h[None, :]
        p_m = matrix + b_y.to(tl.int64)[:, None] * H + o_h[None, :]
        b_x = tl.load(p_x, mask=m_x, other=0.0).to(dtype)
        b_sum += b_x * tl.load(p_m, mask=m_x, other=0.0).to(dtype)
    return tl.sum(b_sum, axis=1)


def is_tiled(row: int, *matrices: Tensor) -> bool:
    """Whether contiguous matrices may be read through descriptors: rows at 16-byte addresses."""
    aligned = (
        matrix.dtype.itemsize == 2 and matrix.shape[1] % 8 == 0 and matrix.data_ptr() % 16 == 0
        for matrix in matrices
    )  # fmt: skip
    return (row == 0 or row >= 90) and all(aligned)


def operand(matrix: Tensor, block_row: int, block_h: int, tiled: bool) -> Tensor | TensorDescriptor:
    """Return what the kernel takes for a contiguous matrix: itself or its descriptor."""
    return TensorDescriptor.from_tensor(matrix, [block_row, block_h]) if tiled else matrix


def product_constants(
    tile_of: tuple[int, int, int, int, int, int],
    row: int,
    dtype: torch.dtype,
    width: int,
    softcap: float,
    tiled: bool,
) -> dict:
    """Return the constants of a kernel that multiplies, from its entry in a table of tiles."""
    block_t, block_v, block_h, num_warps, num_stages, split = tile_of
    return {
        "H": width,
        "SOFTCAP": softcap,
        "TILED": tiled,
        # Triton's interpreter, row 0, multiplies bf16 wrongly.
        "UPCAST": row == 0 and dtype == torch.bfloat16,
        "SWIZZLE": SWIZZLE,
        "SPLIT": split,
        "BLOCK_T": block_t,
        "BLOCK_V": block_v,
        "BLOCK_H": block_h,
        "num_warps": num_warps,
        "num_stages": num_stages,
    }


def combine_constants(dtype: torch.dtype, width: int, softcap: float) -> dict:
    """Return the constants of a kernel that puts the splits of each token together."""
    return {
        "H": width,
        "SOFTCAP": softcap,
        "BLOCK_T": COMBINE_TOKENS,
        "BLOCK_H": COMBINE_BYTES // dtype.itemsize,
        "num_warps": COMBINE_WARPS,
    }
