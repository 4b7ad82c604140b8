# SPDX-License-Identifier: Apache-2.0
"""The demo's model: rewards through the ops rank probes as plain per-sample autograd does."""

import re
from pathlib import Path

import numpy as np
import torch
from moot.trainer.config import ModelConfig
from moot.trainer.feedback import Feedback, FeedbackConfig, precondition
from moot.trainer.feedback.per_sample import document_gradient
from moot.trainer.feedback.reference import reference_gradient
from moot.trainer.feedback.scratch import Scratch
from moot.trainer.model import GPT, GPTConfig, loss
from moot.trainer.rows import pack

SEQ_LEN, VOCAB = 256, 4096
PAGE = Path(__file__).parents[2] / "docs" / "feedback.md"


def zipf_documents(num, seed):
    """Documents of skewed tokens, each with a taste of its own."""
    rng = np.random.default_rng(seed)
    ranks = np.arange(1, VOCAB + 1)
    found = []
    for _ in range(num):
        weights = 1 / ranks ** rng.uniform(0.8, 1.4)
        length = int(rng.integers(8, 128))
        found.append(rng.choice(VOCAB, length, p=weights / weights.sum()))
    return found


def trained_demo_model():
    """The demo's shape in fp32, some steps of AdamW away from its initial point."""
    torch.manual_seed(0)
    shape = ModelConfig()
    model = GPT(
        GPTConfig(
            vocab_size=VOCAB, dim=shape.dim, num_layers=shape.num_layers,
            num_heads=shape.num_heads, max_seq_len=SEQ_LEN,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    for i in range(6):
        rows = pack(zipf_documents(6, seed=100 + i), SEQ_LEN)
        total, count = loss(model(rows.input_ids, rows.position_ids), rows.labels)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    return model, optimizer


def ranks_of(values):
    return np.argsort(np.argsort(values))


def test_rewards_of_the_demo_model_rank_as_per_sample_autograd():
    model, optimizer = trained_demo_model()
    reference, probes = zipf_documents(12, seed=1), zipf_documents(64, seed=2)
    feedback = Feedback(model, optimizer, FeedbackConfig(seq_len=SEQ_LEN, damping=0.1))
    feedback.set_reference(reference)
    cu_seqlens = np.concatenate([[0], np.cumsum([len(p) for p in probes])])
    got = feedback.rewards(1, np.concatenate(probes), cu_seqlens)

    model.eval()
    g_ref = reference_gradient(model, pack(reference, SEQ_LEN), 16 * SEQ_LEN)
    directions, _ = precondition(optimizer, g_ref, 0.1)
    parameters, scratch = list(directions), Scratch()
    expected = []
    for probe in probes:
        gradients = document_gradient(model, probe, SEQ_LEN, parameters, scratch)
        pairs = zip(gradients, directions.values(), strict=True)
        expected.append(sum(float((g.double() * d).sum()) for g, d in pairs) / (len(probe) - 1))
    spearman = np.corrcoef(ranks_of(got), ranks_of(expected))[0, 1]
    assert spearman > 0.9999
    assert np.corrcoef(got, expected)[0, 1] > 0.999999


def test_the_example_of_the_page_runs_and_is_right():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(compile(example, str(PAGE), "exec"), names)
    directions, probes_BL = names["directions"], names["probes_BL"]
    for i in range(3):
        loss_of_one = names["summed_loss"](probes_BL[i : i + 1])
        gradients = torch.autograd.grad(loss_of_one, list(directions))
        pairs = zip(gradients, directions.values(), strict=True)
        exact = sum(float((g.double() * d).sum()) for g, d in pairs)
        assert abs(float(names["influence_N"][i]) / exact - 1) < 1e-4
