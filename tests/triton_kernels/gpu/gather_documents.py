# SPDX-License-Identifier: Apache-2.0
"""gather_documents on CUDA gives the integers of the native routine, and waits for nothing."""

import torch
from moot.triton_kernels import gather_documents
from on_gpu import to_cuda, without_waiting
from test_gather_documents import WIDER, make_documents

LENGTHS = (
    [0, 1, 2, 7, 300, 5000] * 4,
    [3] * 3000,
    torch.randint(1, 2000, (600,), generator=torch.Generator().manual_seed(0)).tolist(),
)


def make_call(seed, lengths):
    """Arguments and options of a call on the CPU."""
    dtype = list(WIDER)[seed % 3]
    generator = torch.Generator().manual_seed(seed)
    tokens, cu_seqlens = make_documents(seed, lengths, dtype)
    stride = len(lengths) // 4
    indices = torch.randint(-1, stride, (4, stride), generator=generator).to(torch.int32)
    count = torch.randint(-1, stride + 3, (4,), generator=generator).to(torch.int32)
    options = {
        "capacity_tokens": (3, 4096, 10_000)[seed % 3], "documents_per_slot": stride, "pad": seed,
        "overflow": ("cut", "drop")[seed // 2 % 2], "dtype": WIDER[dtype][-1],
        "position_ids": seed % 2 == 0,
    }  # fmt: skip
    options["row_tokens"] = options["capacity_tokens"] // (1 if seed % 3 == 0 else 2)
    return (tokens, cu_seqlens, indices, count), options


def check_one(seed, lengths):
    arguments, options = make_call(seed, lengths)
    native = gather_documents(*arguments, **options)
    inputs = [to_cuda(value) for value in arguments]
    for packed in without_waiting(lambda: gather_documents(*inputs, **options)):
        assert torch.equal(packed.tokens.cpu().long(), native.tokens.long())
        assert torch.equal(packed.cu_seqlens.cpu(), native.cu_seqlens)
        if native.position_ids is not None:
            assert torch.equal(packed.position_ids.cpu(), native.position_ids)


def check():
    for seed in range(12):
        for lengths in LENGTHS:
            check_one(seed, lengths)
