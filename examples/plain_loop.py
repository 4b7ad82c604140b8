# SPDX-License-Identifier: Apache-2.0
"""The loader in a plain PyTorch loop: python examples/plain_loop.py runs/demo/corpus."""

import sys
from itertools import islice

import torch

from moot.loader import ConsoleConfig, Loader
from moot.trainer.feedback import Feedback, FeedbackConfig
from moot.trainer.model import GPT, GPTConfig, loss

url = sys.argv[1].rstrip("/")
shape = {"batch_rows": 16, "seq_len": 256}
model = GPT(GPTConfig(vocab_size=8192, dim=128, num_layers=2, num_heads=4, max_seq_len=256))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
feedback = Feedback(model, optimizer, FeedbackConfig())
with Loader(f"{url}/reference", **shape) as reference:
    feedback.set_reference(list(islice(reference, 2)))

console = ConsoleConfig(refresh_steps=10, policy_lag=2)
with Loader(f"{url}/train", console=console, **shape) as loader:
    for step, batch in enumerate(islice(loader, 40), start=1):
        total, count = loss(model(batch["input_ids"], batch["position_ids"]), batch["labels"])
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (refresh := loader.refresh_due()) is not None:
            probes = loader.probes(refresh)
            loader.credit(refresh, probes.ids, feedback.rewards(probes))
            print(f"step {step}: loss {total.item() / count.item():.3f}")
