# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""ghost_influence of linear layers: a matrix product and a row dot in one Triton kernel.

A program multiplies a tile of one operand by a tile of G, then takes the dot of each of its rows
with the other operand: one fp32 number for each token and tile of columns. A second kernel adds a
token's tiles in order. Neither [T, I] nor [T, O] is ever written. Up to `GROUP` layers of one
shape share a launch; their addresses are plain arguments, so nothing is copied to the device and a
CUDA graph holds them. Mathematics: docs/ops/ghost_influence.md.

Legend: T tokens, K the dimension multiplied away, N the other one, L layers; o_ offsets, m_ masks,
p_ pointers, b_ block values.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..architecture import architecture

GROUP = 8
"""Layers of one launch."""
SWIZZLE = 8
"""Tiles of tokens that stand beside each other before the next tile of columns: G stays in L2."""
COMBINE_TOKENS, COMBINE_WARPS = 1024, 4

RAGGED = 1
"""Stands for the bytes of an element where rows are no multiples of 16: they load one by one."""

TILES = {
    # architecture: bytes of an element: (tokens, N, K, warps, stages)
    0: dict.fromkeys((RAGGED, 2, 4), (32, 32, 16, 4, 1)),
    80: {RAGGED: (64, 64, 32, 4, 2), 2: (128, 256, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    86: {RAGGED: (64, 64, 32, 4, 2), 2: (128, 128, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    90: {RAGGED: (64, 64, 32, 4, 2), 2: (128, 256, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    100: {RAGGED: (64, 64, 32, 4, 2), 2: (128, 256, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    120: {RAGGED: (64, 64, 32, 4, 2), 2: (128, 128, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
}
DOUBLE = (32, 32, 16, 4, 3)
"""The tile of fp64, which is for checks, on every architecture."""


@triton.jit
def pick(i, v0, v1, v2, v3, v4, v5, v6, v7):
    """Return the i-th of eight values."""
    value = v0
    if i == 1:
        value = v1
    if i == 2:
        value = v2
    if i == 3:
        value = v3
    if i == 4:
        value = v4
    if i == 5:
        value = v5
    if i == 6:
        value = v6
    if i == 7:
        value = v7
    return value


@triton.jit
def swizzled(i_tile, num_t, num_n, SWIZZLE: tl.constexpr):
    """Return the tile of tokens and the tile of columns of a program."""
    width = SWIZZLE * num_n
    first = i_tile // width * SWIZZLE
    size = tl.minimum(num_t - first, SWIZZLE)
    return first + i_tile % width % size, i_tile % width // size


@triton.jit
def ghost_influence_fwd_kernel(
    x0, x1, x2, x3, x4, x5, x6, x7,
    y0, y1, y2, y3, y4, y5, y6, y7,
    g0, g1, g2, g3, g4, g5, g6, g7,
    bias, partials, T, N, K,
    HAS_BIAS: tl.constexpr, IS_TRANSPOSED: tl.constexpr, IS_EVEN: tl.constexpr,
    UPCAST: tl.constexpr, SWIZZLE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write partials[l, n, t] = sum over the columns of tile n of (x_t G^T + bias) * y_t.

    G is [N, K], or [K, N] where IS_TRANSPOSED; IS_EVEN where BLOCK_K divides K.
    """
    i_l = tl.program_id(1)
    i_t, i_n = swizzled(tl.program_id(0), tl.cdiv(T, BLOCK_T), tl.cdiv(N, BLOCK_N), SWIZZLE)
    o_t = i_t * BLOCK_T + tl.arange(0, BLOCK_T)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    m_t, m_n = o_t < T, o_n < N
    p_x = pick(i_l, x0, x1, x2, x3, x4, x5, x6, x7)
    p_x += o_t.to(tl.int64)[:, None] * K + o_k[None, :]
    p_g = pick(i_l, g0, g1, g2, g3, g4, g5, g6, g7)
    if IS_TRANSPOSED:
        p_g += o_k.to(tl.int64)[:, None] * N + o_n[None, :]
    else:
        p_g += o_n.to(tl.int64)[None, :] * K + o_k[:, None]
    dtype: tl.constexpr = partials.dtype.element_ty
    b_sum = tl.zeros([BLOCK_T, BLOCK_N], dtype)
    if HAS_BIAS:
        # Before the product: behind it the row would stand beside a full set of accumulators.
        b_sum += tl.load(bias + i_l * N + o_n, mask=m_n, other=0.0).to(dtype)[None, :]
    for i_k in range(0, K, BLOCK_K):
        m_x, m_g = m_t[:, None], m_n[None, :]
        if not IS_EVEN:
            m_x = m_x & (o_k < K - i_k)[None, :]
            m_g = m_g & (o_k < K - i_k)[:, None]
        b_x = tl.load(p_x, mask=m_x, other=0.0)
        b_g = tl.load(p_g, mask=m_g, other=0.0)
        if UPCAST:
            b_x, b_g = b_x.to(tl.float32), b_g.to(tl.float32)
        b_sum = tl.dot(b_x, b_g, b_sum, input_precision="ieee", out_dtype=dtype)
        p_x += BLOCK_K
        if IS_TRANSPOSED:
            p_g += tl.full([], BLOCK_K, tl.int64) * N
        else:
            p_g += BLOCK_K
    p_y = pick(i_l, y0, y1, y2, y3, y4, y5, y6, y7)
    p_y += o_t.to(tl.int64)[:, None] * N + o_n[None, :]
    b_y = tl.load(p_y, mask=m_t[:, None] & m_n[None, :], other=0.0).to(dtype)
    # Columns past N hold nothing of G, but a zero times an infinite bias or y would not be zero.
    b_dot = tl.sum(tl.where(m_n[None, :], b_sum * b_y, 0.0), axis=1)
    i_row = i_l.to(tl.int64) * tl.cdiv(N, BLOCK_N) + i_n
    tl.store(partials + i_row * T + o_t, b_dot, mask=m_t)


@triton.jit(do_not_specialize=["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "num_n"])
def ghost_influence_combine_kernel(
    partials, out, r0, r1, r2, r3, r4, r5, r6, r7, num_n, T, BLOCK_T: tl.constexpr
):
    """Write out[r_l, t] = sum of partials[l, n, t] over n in order, in fp64."""
    i_l = tl.program_id(1)
    o_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_t = o_t < T
    b_sum = tl.zeros([BLOCK_T], tl.float64)
    p_row = partials + i_l.to(tl.int64) * num_n * T + o_t
    for _ in range(num_n):
        b_sum += tl.load(p_row, mask=m_t, other=0.0).to(tl.float64)
        p_row += T
    i_row = pick(i_l, r0, r1, r2, r3, r4, r5, r6, r7).to(tl.int64)
    tl.store(out + i_row * T + o_t, b_sum.to(out.dtype.element_ty), mask=m_t)


def ghost_influence_fwd(
    activations: Sequence[Tensor],
    output_grads: Sequence[Tensor],
    directions: Sequence[Tensor],
    bias_directions: Sequence[Tensor | None],
) -> Tensor:
    """Launch the kernels, one pair for up to `GROUP` layers of one shape; arguments checked."""
    num_tokens, dtype = len(output_grads[0]), output_grads[0].dtype
    out = torch.empty(
        len(directions), num_tokens,
        dtype=torch.promote_types(dtype, torch.float32), device=output_grads[0].device,
    )  # fmt: skip
    if num_tokens == 0:
        return out
    groups: dict[tuple, list[int]] = {}
    for place, direction in enumerate(directions):
        key = (*direction.shape, bias_directions[place] is not None)
        groups.setdefault(key, []).append(place)
    for places in groups.values():
        for first in range(0, len(places), GROUP):
            some = places[first : first + GROUP]
            _launch(
                [activations[place].to(dtype).contiguous() for place in some],
                [output_grads[place].contiguous() for place in some],
                [directions[place].to(dtype).contiguous() for place in some],
                [bias_directions[place] for place in some],
                out, some,
            )  # fmt: skip
    return out


def _launch(
    activations: list[Tensor],
    output_grads: list[Tensor],
    directions: list[Tensor],
    bias_directions: list[Tensor | None],
    out: Tensor,
    places: list[int],
) -> None:
    """Fill rows `places` of out from layers of one shape."""
    outputs, inputs = directions[0].shape
    num_layers, num_tokens = len(places), out.shape[1]
    shape = launch_shape(inputs, outputs, bias_directions[0] is not None, output_grads[0])
    is_transposed = shape["IS_TRANSPOSED"]
    bias = out
    if bias_directions[0] is not None:
        bias = torch.stack([b.to(out.dtype) for b in bias_directions if b is not None])
    left, right = (output_grads, activations) if is_transposed else (activations, output_grads)
    width, depth = (inputs, outputs) if is_transposed else (outputs, inputs)
    num_n = triton.cdiv(width, shape["BLOCK_N"])
    partials = torch.empty(num_layers, num_n, num_tokens, dtype=out.dtype, device=out.device)
    tiles = triton.cdiv(num_tokens, shape["BLOCK_T"]) * num_n
    ghost_influence_fwd_kernel[(tiles, num_layers)](
        *_padded(left), *_padded(right), *_padded(directions),
        bias, partials, num_tokens, width, depth, **shape,
    )  # fmt: skip
    ghost_influence_combine_kernel[(triton.cdiv(num_tokens, COMBINE_TOKENS), num_layers)](
        partials, out, *_padded(places), num_n, num_tokens,
        BLOCK_T=COMBINE_TOKENS, num_warps=COMBINE_WARPS,
    )  # fmt: skip


def _padded(values: list) -> list:
    """Repeat the last value until there are `GROUP`."""
    return values + [values[-1]] * (GROUP - len(values))


def launch_shape(inputs: int, outputs: int, has_bias: bool, output_grads: Tensor) -> dict:
    """Return the kernel's constants, from the layer's shape, the dtype and the architecture."""
    row = architecture(output_grads.device, TILES)
    return constants(row, output_grads.dtype, inputs, outputs, has_bias)


def constants(row: int, dtype: torch.dtype, inputs: int, outputs: int, has_bias: bool) -> dict:
    """Return the kernel's constants for one row of `TILES`.

    The narrower side is the one whose columns are cut into tiles, as in the reference: fewer
    partials. A bias adds to G a_t alone, so it keeps O there.
    """
    kind = RAGGED if inputs % 16 or outputs % 16 else dtype.itemsize
    tile = DOUBLE if dtype == torch.float64 else TILES[row][kind]
    block_t, block_n, block_k, num_warps, num_stages = tile
    is_transposed = outputs > inputs and not has_bias
    return {
        "HAS_BIAS": has_bias,
        "IS_TRANSPOSED": is_transposed,
        "IS_EVEN": (outputs if is_transposed else inputs) % block_k == 0,
        "UPCAST": row == 0 and dtype == torch.bfloat16,
        "SWIZZLE": SWIZZLE,
        "BLOCK_T": block_t,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "num_warps": num_warps,
        "num_stages": num_stages,
    }
