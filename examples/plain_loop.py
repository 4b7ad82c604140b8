# SPDX-License-Identifier: Apache-2.0
"""The loader in a plain PyTorch loop: python examples/plain_loop.py runs/demo/corpus."""

import sys
from itertools import islice

import torch
from moot.loader import ConsoleConfig, Loader
from moot.trainer.feedback import Feedback, FeedbackConfig
from moot.trainer.model import GPT, GPTConfig, loss

url, shape = sys.argv[1], {"batch_rows": 8, "seq_len": 128}
model = GPT(GPTConfig(vocab_size=8192, dim=64, num_layers=2, num_heads=4, max_seq_len=128))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
feedback = Feedback(model, optimizer, FeedbackConfig(seq_len=128))
with Loader(f"{url}/reference", fields=("input_ids", "cu_seqlens"), **shape) as reference:
    batch = next(iter(reference))
    ends = batch["cu_seqlens"][1:-1].long()
    feedback.set_reference(batch["input_ids"].flatten().tensor_split(ends))

console = ConsoleConfig(refresh_steps=20, policy_lag=2)
with Loader(f"{url}/train", console=console, **shape) as loader:
    for batch in islice(loader, 40):
        total, count = loss(model(batch["input_ids"], batch["position_ids"]), batch["labels"])
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (refresh := loader.refresh_due()) is not None:
            probes = loader.probes(refresh)
            rewards = feedback.rewards(refresh, probes.tokens, probes.cu_seqlens)
            loader.credit(refresh, probes.ids, rewards)
            print(f"refresh {refresh}: loss {total.item() / count.item():.3f}")
