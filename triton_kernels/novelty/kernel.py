# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""novelty as a matrix product whose tiles are reduced to their row maxima where they arise.

A program holds a tile of vectors and walks over its share of the bank, in order; the N x K products
never leave it. A second kernel takes the largest of the shares, first share first, and divides by
the vectors' lengths. A vector's result is the same bits however the bank is shared and whatever
vectors stand beside it. Mathematics: docs/ops/novelty.md.

Legend: N vectors, K centroids, D dimensions; o_ offsets, m_ masks, p_ pointers, b_ block values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..architecture import architecture

TILES = {
    # architecture: bytes of an element: (vectors, centroids, dimensions, warps, stages)
    0: {2: (16, 32, 16, 4, 1), 4: (16, 32, 16, 4, 1)},
    80: {2: (128, 128, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    90: {2: (256, 128, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    100: {2: (128, 256, 64, 8, 3), 4: (64, 64, 32, 4, 3)},
    120: {2: (128, 128, 64, 8, 2), 4: (64, 64, 32, 8, 3)},
}
WANTED_PROGRAMS = 512
"""Below this number of tiles of vectors the bank is shared, so that every processor has work."""
FINISH_VECTORS, FINISH_DIMENSIONS, FINISH_WARPS = 16, 128, 4


@triton.jit
def novelty_fwd_kernel(
    vectors, centroids, inverse_norms, largest, nearest, N, K, share,
    D: tl.constexpr, IS_EVEN: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write the largest x . c / |c| over a share of the bank; share is a multiple of BLOCK_K."""
    i_s = tl.program_id(1)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_d = tl.arange(0, BLOCK_D)
    m_n = o_n < N
    p_tile = vectors + o_n.to(tl.int64)[:, None] * D + o_d[None, :]
    b_largest = tl.full([BLOCK_N], float("-inf"), tl.float32)
    b_nearest = tl.zeros([BLOCK_N], tl.int32)
    for i_k in range(i_s * share, tl.minimum((i_s + 1) * share, K), BLOCK_K):
        o_k = i_k + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        p_x = p_tile
        p_c = centroids + o_k.to(tl.int64)[None, :] * D + o_d[:, None]
        b_dot = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for i_d in range(0, D, BLOCK_D):
            m_x, m_c = m_n[:, None], m_k[None, :]
            if not IS_EVEN:
                m_x = m_x & (o_d < D - i_d)[None, :]
                m_c = m_c & (o_d < D - i_d)[:, None]
            b_x = tl.load(p_x, mask=m_x, other=0.0)
            b_c = tl.load(p_c, mask=m_c, other=0.0)
            if UPCAST:
                b_x, b_c = b_x.to(tl.float32), b_c.to(tl.float32)
            b_dot = tl.dot(b_x, b_c, b_dot, input_precision="ieee")
            p_x += BLOCK_D
            p_c += BLOCK_D
        # NaN where there is no centroid. It is never the largest; a vector that makes NaN itself
        # gets it from its own length in the end.
        b_inverse = tl.load(inverse_norms + o_k, mask=m_k, other=float("nan"))
        b_dot = b_dot * b_inverse[None, :]
        b_dot = tl.where(b_dot == b_dot, b_dot, float("-inf"))
        b_tile, b_first = tl.max(b_dot, axis=1, return_indices=True)  # of equal ones the first
        is_better = b_tile > b_largest
        b_largest = tl.where(is_better, b_tile, b_largest)
        b_nearest = tl.where(is_better, i_k + b_first, b_nearest)
    o_out = i_s.to(tl.int64) * N + o_n
    tl.store(largest + o_out, b_largest, mask=m_n)
    tl.store(nearest + o_out, b_nearest, mask=m_n)


@triton.jit(do_not_specialize=["num_shares"])
def novelty_finish_kernel(
    vectors, largest, share_nearest, similarity, nearest, N, num_shares,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Take the largest of the shares, the first on a tie, and divide it by the vector's length."""
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_d = tl.arange(0, BLOCK_D)
    m_n = o_n < N
    b_square = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    p_x = vectors + o_n.to(tl.int64)[:, None] * D + o_d[None, :]
    for i_d in range(0, D, BLOCK_D):
        m_x = m_n[:, None] & (o_d < D - i_d)[None, :]
        b_x = tl.load(p_x, mask=m_x, other=0.0).to(tl.float32)
        b_square += b_x * b_x
        p_x += BLOCK_D
    square = tl.sum(b_square, axis=1)
    b_largest = tl.full([BLOCK_N], float("-inf"), tl.float32)
    b_nearest = tl.zeros([BLOCK_N], tl.int32)
    p_share = largest + o_n
    p_nearest = share_nearest + o_n
    for _ in range(num_shares):
        b_share = tl.load(p_share, mask=m_n, other=float("-inf"))
        b_place = tl.load(p_nearest, mask=m_n, other=0)
        is_better = b_share > b_largest
        b_largest = tl.where(is_better, b_share, b_largest)
        b_nearest = tl.where(is_better, b_place, b_nearest)
        p_share += N
        p_nearest += N
    length = tl.sqrt_rn(tl.where(square > 0, square, 1.0))
    inverse = tl.div_rn(tl.full([BLOCK_N], 1.0, tl.float32), length)
    inverse = tl.where(square > 0, inverse, 0.0)
    inverse = tl.where(square < float("inf"), inverse, float("nan"))
    tl.store(similarity + o_n, b_largest * inverse, mask=m_n)
    tl.store(nearest + o_n, b_nearest, mask=m_n)


def novelty_fwd(vectors: Tensor, centroids: Tensor, inverse_norms: Tensor) -> tuple[Tensor, Tensor]:
    """Launch the two kernels; arguments as in novelty, already checked."""
    num_vectors, num_centroids, device = len(vectors), len(centroids), vectors.device
    similarity = torch.empty(num_vectors, dtype=torch.float32, device=device)
    nearest = torch.empty(num_vectors, dtype=torch.int32, device=device)
    if num_vectors == 0:
        return similarity, nearest
    shape = constants(architecture(device, TILES), vectors.dtype, vectors.shape[1])
    tiles = triton.cdiv(num_vectors, shape["BLOCK_N"])
    share, num_shares = shares(tiles, num_centroids, shape["BLOCK_K"])
    largest = torch.empty(num_shares, num_vectors, dtype=torch.float32, device=device)
    share_nearest = torch.empty(num_shares, num_vectors, dtype=torch.int32, device=device)
    novelty_fwd_kernel[(tiles, num_shares)](
        vectors, centroids, inverse_norms, largest, share_nearest,
        num_vectors, num_centroids, share, **shape,
    )  # fmt: skip
    novelty_finish_kernel[(triton.cdiv(num_vectors, FINISH_VECTORS),)](
        vectors, largest, share_nearest, similarity, nearest, num_vectors, num_shares,
        D=shape["D"], BLOCK_N=FINISH_VECTORS, BLOCK_D=FINISH_DIMENSIONS, num_warps=FINISH_WARPS,
    )  # fmt: skip
    return similarity, nearest


def constants(row: int, dtype: torch.dtype, dim: int) -> dict:
    """Return the first kernel's constants for one row of `TILES`."""
    block_n, block_k, block_d, num_warps, num_stages = TILES[row][dtype.itemsize]
    return {
        "D": dim,
        "IS_EVEN": dim % block_d == 0,
        "UPCAST": row == 0 and dtype == torch.bfloat16,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "BLOCK_D": block_d,
        "num_warps": num_warps,
        "num_stages": num_stages,
    }


def shares(tiles: int, num_centroids: int, block_k: int) -> tuple[int, int]:
    """Return how many centroids a program walks over, and how many shares that makes."""
    blocks = triton.cdiv(num_centroids, block_k)
    wanted = min(triton.cdiv(WANTED_PROGRAMS, tiles), blocks)
    share = triton.cdiv(blocks, wanted) * block_k
    return share, triton.cdiv(num_centroids, share)
