# SPDX-License-Identifier: Apache-2.0
"""The recipe of a run: device, optimizer, learning rate, and the console of a static threshold."""

import math

import torch
from torch import nn

from ..loader import AgentSet, ConfigError, ConsoleConfig
from .config import RunConfig


def threshold_console(agents: AgentSet, lowest: int) -> ConsoleConfig:
    """Build the console that lets quality states from `lowest` on through, and never moves."""
    memory = {agent.name: (0.0,) * agent.num_states for agent in agents.agents}
    if "quality" not in memory:
        raise ConfigError("kind 'threshold' needs an agent named 'quality': run 'moot fit'")
    states = len(memory["quality"])
    memory["quality"] = tuple(float(state >= lowest) for state in range(states))
    theta = {agent.name: float(agent.name == "quality") for agent in agents.agents}
    return ConsoleConfig(mode="fixed", memory=memory, theta=theta, temperature=0.0)


def learning_rate(step: int, config: RunConfig) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine."""
    train = config.train
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    span = max(train.steps - train.warmup_steps, 1)
    share = (step - train.warmup_steps) / span
    low = train.min_lr_share
    return train.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Build AdamW; matrices are decayed, vectors are not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (0.9, config.train.beta2)
    return torch.optim.AdamW(groups, lr=config.train.lr, betas=betas)


def pick_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA where it is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
