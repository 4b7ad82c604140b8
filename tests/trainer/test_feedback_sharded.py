# SPDX-License-Identifier: Apache-2.0
"""Rewards of models on two processes (gloo, CPU) against the same model on one.

Run as a script, the file is one of the processes: FILE MODE RANK STORE.
"""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from moot.loader.errors import ConfigError
from moot.trainer.cross_entropy import token_losses
from moot.trainer.feedback import Feedback, FeedbackConfig, GhostCapture
from moot.trainer.model import GPT, GPTConfig
from torch import nn
from torch.utils.checkpoint import checkpoint

WORLD, VOCAB, SEQ_LEN = 2, 31, 16
MODES = ("ddp", "fsdp", "fsdp_layers", "fsdp_checkpoint", "hsdp")


def make_model(tied=True):
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2, max_seq_len=SEQ_LEN,
        tie_embeddings=tied, bias=True,
    )  # fmt: skip
    model = GPT(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def step(model, optimizer):
    """One training step on the same tokens on every rank."""
    tokens = (torch.arange(4 * SEQ_LEN).view(4, -1) * 7) % VOCAB
    positions = torch.arange(SEQ_LEN).expand_as(tokens)
    optimizer.zero_grad()
    token_losses(model(tokens, positions), tokens).sum().backward()
    optimizer.step()


def documents(lengths, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, length) for length in lengths]


REFERENCE = documents([20, 9, 4], seed=2)
PROBES = (documents([5, 12, 7, 2, 1, 0, 30, 11, 9], seed=3), documents([6], seed=4))
"""By rank: one has many passes, the other one."""


def rewards_of(model, optimizer, probes):
    config = FeedbackConfig(seq_len=SEQ_LEN, rows_per_pass=1, max_probe_tokens=None, damping=0.1)
    feedback = Feedback(model, optimizer, config)
    feedback.set_reference(REFERENCE)
    cu_seqlens = np.concatenate([[0], np.cumsum([len(p) for p in probes])])
    return feedback.rewards(1, np.concatenate(probes), cu_seqlens), feedback.last["influence"]


def spread(model, mode):
    """Wrap or shard a model for two ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if mode == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    settings = {"mesh": init_device_mesh("cpu", (WORLD,))}
    if mode == "hsdp":
        names = ("replicate", "shard")
        settings = {"mesh": init_device_mesh("cpu", (1, WORLD), mesh_dim_names=names)}
    for block in model.blocks:
        if mode == "fsdp_layers":
            fully_shard(block.feed_forward.down, **settings)
            fully_shard(block.attention_norm, **settings)
        fully_shard(block, **settings)
    fully_shard(model, **settings)
    if mode == "fsdp_checkpoint":
        for block in model.blocks:
            plain = block.forward
            block.forward = lambda *inputs, plain=plain: checkpoint(
                plain, *inputs, use_reentrant=False
            )
    return model


def check_mode(mode, rank):
    plain = make_model(tied=mode != "hsdp")
    spread_model = spread(copy.deepcopy(plain), mode)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (plain, spread_model)]
    for _ in range(2):
        step(plain, optimizers[0])
        step(spread_model, optimizers[1])
    before = [(id(p.grad), p.requires_grad) for p in spread_model.parameters()]
    expected, influence = rewards_of(plain, optimizers[0], PROBES[rank])
    got, got_influence = rewards_of(spread_model, optimizers[1], PROBES[rank])
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    assert abs(got_influence / influence - 1) < 1e-8
    assert [(id(p.grad), p.requires_grad) for p in spread_model.parameters()] == before
    # Training goes on as if nothing had been measured.
    step(plain, optimizers[0])
    step(spread_model, optimizers[1])
    again, _ = rewards_of(spread_model, optimizers[1], PROBES[rank])
    np.testing.assert_allclose(again, rewards_of(plain, optimizers[0], PROBES[rank])[0], rtol=1e-7)
    if mode == "fsdp":
        check_refusals(spread_model)


def check_refusals(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    with pytest.raises(ConfigError, match="sharded by fully_shard"):
        Feedback(model, None, FeedbackConfig(reward="cosine"))
    parallel = make_model(tied=False)
    mesh = init_device_mesh("cpu", (WORLD,))
    parallelize_module(parallel, mesh, {"blocks.0.feed_forward.gate_up": ColwiseParallel()})
    with pytest.raises(TypeError, match=r"blocks.0.feed_forward.gate_up.weight is a DTensor"):
        GhostCapture(parallel, {})


def main():
    """Be one of the processes."""
    mode, rank, store = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    check_mode(mode, rank)
    dist.destroy_process_group()


@pytest.mark.parametrize("mode", MODES)
def test_rewards_on_two_processes_equal_those_on_one(mode, tmp_path):
    command = [sys.executable, __file__, mode]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(outputs)


def test_fsdp1_is_refused_by_name():
    class FullyShardedDataParallel(nn.Module):
        """Stands for torch's, which needs a process group."""

    FullyShardedDataParallel.__module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"
    model = nn.Sequential(FullyShardedDataParallel())
    with pytest.raises(TypeError, match=r"FullyShardedDataParallel \(0\): shard it with"):
        GhostCapture(model, {})


if __name__ == "__main__":
    main()
