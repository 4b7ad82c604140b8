# SPDX-License-Identifier: Apache-2.0
"""Which row of a kernel's table of tiles serves a device.

Tiles are fixed per architecture and never tuned at run time: the same device gives the same bits.
"""

from collections.abc import Iterable

import torch

INTERPRETER = 0
"""Stands for Triton's interpreter on CPU tensors: small tiles, so that small tests see several."""


def architecture(device: torch.device, known: Iterable[int]) -> int:
    """Return the newest known compute capability (major * 10 + minor) that the device has.

    Args:
        device: CPU (the interpreter) or CUDA.
        known: Rows of the table; `INTERPRETER` is one of them.

    Raises:
        ValueError: The device is older than every row.
    """
    if device.type == "cpu":
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    found = max((row for row in known if row <= major * 10 + minor), default=INTERPRETER)
    if found == INTERPRETER:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}; the "
            "kernel serves 8.0 and newer: take implementation='reference'"
        )
    return found
