# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: model, optimizer, random state, loader and console in one file, published by rename.

A kill leaves the last whole checkpoint. Files are read with `weights_only`, so none can run code.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch

from ..loader.errors import StateError

_NAME = re.compile(r"step-(\d{8})\.pt")
_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Publish `state` as the checkpoint of `step` and let go of all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save({**state, "step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    for old in _checkpoints(folder)[:-_KEPT]:
        old.unlink()
    return path


def load_latest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the newest checkpoint, None where there is none.

    Raises:
        StateError: The file is damaged.
    """
    paths = _checkpoints(folder)
    if not paths:
        return None
    try:
        state: dict[str, Any] = torch.load(paths[-1], map_location=device, weights_only=True)
    except Exception as error:
        raise StateError(
            f"checkpoint {paths[-1]} cannot be read ({error}): delete it, the one before is there"
        ) from error
    return state


def random_state() -> dict[str, torch.Tensor]:
    """Return torch's random state on the CPU and, if there, on CUDA."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Go back to a random state."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
