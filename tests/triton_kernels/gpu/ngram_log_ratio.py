# SPDX-License-Identifier: Apache-2.0
"""The compiled ngram_log_ratio gives the bits of the native routine, without waiting."""

import torch
from moot.triton_kernels import LogRatioTable, ngram_counts, ngram_log_ratio

DTYPES = (torch.uint16, torch.int32, torch.int64)
ORDERS = ((1,), (1, 2), (2, 3), (1, 2, 3))


def make_inputs(seed, lengths):
    """Tokens, offsets and a table on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.randint(0, 1 << 16, (int(cu_seqlens[-1]),), generator=generator)
    steps = torch.randint(-(2**31), 2**31, (1 << (4 + seed % 12),), generator=generator)
    table = LogRatioTable(steps.to(torch.int32), ORDERS[seed % 4])
    return tokens.to(DTYPES[seed % 3]), cu_seqlens, table


def check():
    """Compare with the native routine: few and many, empty and long documents; capture once."""
    for seed in range(12):
        lengths = [0, 1, 2, 255, 257, 40_000, 3 * seed] * (1 if seed % 2 else 300)
        tokens, cu_seqlens, table = make_inputs(seed, lengths)
        wanted = ngram_log_ratio(tokens, cu_seqlens, table)
        moved = (tokens.cuda(), cu_seqlens.cuda(), table.to("cuda"))
        ngram_log_ratio(*moved)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        result = ngram_log_ratio(*moved)
        torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(result.cpu().view(torch.int64), wanted.view(torch.int64)), seed
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ngram_log_ratio(*moved)
    captured.zero_()
    graph.replay()
    assert torch.equal(captured.cpu(), wanted)
    counts = ngram_counts(moved[0], moved[1], 1 << 14, (1, 2))
    assert torch.equal(counts.cpu(), ngram_counts(tokens, cu_seqlens, 1 << 14, (1, 2)))


if __name__ == "__main__":
    check()
