# SPDX-License-Identifier: Apache-2.0
"""The compiled novelty is as close to fp64 as a plain product, independent and without waiting."""

import torch
from moot.triton_kernels import CentroidBank, novelty

SHAPES = [(1, 1, 1), (5, 300, 17), (129, 257, 64), (1000, 5000, 768), (3000, 513, 1000)]


def check_shape(seed, num_vectors, num_centroids, dim, dtype):
    """Compare one shape with fp64; the naive product runs in fp32 without TF32."""
    generator = torch.Generator("cuda").manual_seed(seed)
    rows = torch.randn(num_vectors + num_centroids, dim, device="cuda", generator=generator)
    rows = (rows * (0.1 + rows[:, :1].abs())).to(dtype)
    vectors, centroids = rows[:num_vectors].clone(), rows[num_vectors:].clone()
    bank = CentroidBank.of(centroids)
    novelty(vectors, bank)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    result = novelty(vectors, bank)
    torch.cuda.set_sync_debug_mode("default")
    exact, naive = (
        torch.nn.functional.normalize(vectors.to(wide), dim=1)
        @ torch.nn.functional.normalize(centroids.to(wide), dim=1).T
        for wide in (torch.float64, torch.float32)
    )
    wanted = exact.amax(1)
    allowed = 2 * (naive.amax(1) - wanted).abs().max() + 4 * wanted.abs().max() * 2.0**-23
    where = (num_vectors, num_centroids, dim, dtype)
    assert (result.similarity - wanted).abs().max() <= allowed, where
    named = exact.gather(1, result.nearest.long()[:, None])[:, 0]
    assert (named - wanted).abs().max() <= 2 * allowed, where
    order = torch.randperm(num_vectors, device="cuda")
    again = novelty(vectors[order], bank)
    assert torch.equal(again.similarity, result.similarity[order]), where
    assert torch.equal(again.nearest, result.nearest[order]), where
    alone = novelty(vectors[-1:].clone(), bank)
    assert torch.equal(alone.similarity, result.similarity[-1:]), where
    return vectors, bank, result


def check():
    """Every shape and dtype; the last of them captured in a graph."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for seed, shape in enumerate(SHAPES):
            vectors, bank, result = check_shape(seed, *shape, dtype)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = novelty(vectors, bank)
    captured.similarity.zero_()
    graph.replay()
    assert torch.equal(captured.similarity, result.similarity)
    vectors[0], vectors[1, 3] = 0, float("nan")
    odd = novelty(vectors, bank)
    assert odd.similarity[0] == 0 and odd.similarity[1].isnan()


if __name__ == "__main__":
    check()
