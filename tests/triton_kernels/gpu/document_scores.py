# SPDX-License-Identifier: Apache-2.0
"""document_scores on CUDA gives the bits of the native routine."""

import test_document_scores as scores
import torch
from moot.triton_kernels import DocumentScores, document_scores
from on_gpu import to_cuda, without_waiting


def on_cpu(result):
    return DocumentScores(**{name: value.cpu() for name, value in vars(result).items()})


def check():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        model = scores.make_model(generator, 1024, 16 * (1 + seed % 6), 21)
        agents = scores.make_agents(generator, 21)
        batch = scores.make_batch(generator, [0, 1, 2, 65, 1000, 3 * seed], scores.DTYPES[seed % 3])
        tokens, cu_seqlens, stored = batch
        native = document_scores(tokens, cu_seqlens, model, agents, stored)
        inputs = [to_cuda(value) for value in (tokens, cu_seqlens, model, agents, stored)]
        for result in without_waiting(lambda inputs=inputs: document_scores(*inputs)):
            scores.assert_same_bits(native, on_cpu(result))
