# SPDX-License-Identifier: Apache-2.0
"""The mean loss per token: the plain definition, whatever the packing, and no trace left."""

import numpy as np
import pytest
import torch
from moot.trainer.evaluate import evaluate
from moot.trainer.model import GPT, GPTConfig, token_losses


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=40, dim=16, num_layers=2, num_heads=2, max_seq_len=16)
    model = GPT(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make_documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 40, n).astype(np.uint16) for n in (5, 33, 16, 1, 0, 2, 11)]


def summed_loss(model, document, seq_len):
    total, count = 0.0, 0
    for start in range(0, len(document), seq_len):
        piece = torch.from_numpy(document[start : start + seq_len].astype(np.int64))[None]
        positions = torch.arange(piece.shape[1])[None]
        labels = piece.masked_fill(positions == 0, -100)
        total += float(token_losses(model(piece, positions), labels).sum().detach())
        count += piece.shape[1] - 1
    return total, count


@pytest.mark.parametrize("rows_per_pass", [1, 3, 16])
def test_loss_is_the_mean_over_predicted_tokens(model, rows_per_pass):
    documents = make_documents()
    sums = [summed_loss(model, d, 16) for d in documents]
    found = evaluate(model, documents, seq_len=16, rows_per_pass=rows_per_pass)
    assert found.num_tokens == sum(n for _, n in sums) == 60
    assert found.loss == pytest.approx(sum(s for s, _ in sums) / 60, rel=1e-12)
    assert found.domain_losses == {}


def test_domains_have_their_own_means(model):
    documents = make_documents()
    domains = [2, 2, 0, 1, 1, 0, 5]
    found = evaluate(model, documents, seq_len=16, domains=domains)
    assert sorted(found.domain_losses) == [0, 2, 5]  # domain 1 predicts nothing
    for domain, value in found.domain_losses.items():
        own = [
            summed_loss(model, d, 16)
            for d, k in zip(documents, domains, strict=True)
            if k == domain
        ]
        assert value == pytest.approx(sum(s for s, _ in own) / sum(n for _, n in own), rel=1e-12)


def test_evaluation_is_deterministic_and_leaves_no_trace(model):
    model.float()
    model.blocks[0].eval()
    flags = [module.training for module in model.modules()]
    bits = [p.detach().clone() for p in model.parameters()]
    generator = torch.get_rng_state()
    first = evaluate(model, make_documents(), seq_len=16)
    assert first == evaluate(model, make_documents(), seq_len=16)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(bits, model.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())


def test_tensors_are_taken_too(model):
    documents = make_documents()
    tensors = [torch.from_numpy(d.astype(np.int64)) for d in documents]
    assert evaluate(model, tensors, seq_len=16) == evaluate(model, documents, seq_len=16)


def test_nothing_to_measure_is_an_error(model):
    with pytest.raises(ValueError, match="none of the 1 documents has two tokens"):
        evaluate(model, [np.zeros(1, np.int64)], seq_len=16)
    with pytest.raises(ValueError, match="one number for each of the 7 documents"):
        evaluate(model, make_documents(), seq_len=16, domains=[1, 2])
