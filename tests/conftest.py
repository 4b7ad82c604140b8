# SPDX-License-Identifier: Apache-2.0
"""What tests share: one thread, a hypothesis profile, the `gpu` marker, foreign packages."""

import os
import types

import pytest
import torch
from hypothesis import HealthCheck, settings
from mosaicml import import_streaming

settings.register_profile(
    "moot",
    deadline=None,
    max_examples=25,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("moot")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on a machine without CUDA."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def streaming() -> types.ModuleType:
    """mosaicml-streaming, the other side of the differential tests."""
    return import_streaming()
