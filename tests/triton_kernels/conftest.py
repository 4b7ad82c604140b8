# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter for the kernels, and outputs that start as garbage.

The variable is set before any test imports a kernel: kernels are imported by the first call that
needs one. test_cubins.py and test_gpu.py compile in processes of their own, without it.
"""

import os

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def poisoned_empty(monkeypatch):
    """Make torch.empty return NaN or a huge integer, so that an unwritten element shows."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 0x5A5A5A5A)

    monkeypatch.setattr(torch, "empty", poisoned)
