# SPDX-License-Identifier: Apache-2.0
"""What tests share: one thread, a hypothesis profile, the `gpu` marker, foreign packages."""

import importlib
import importlib.machinery
import os
import sys
import types

import pytest
import torch
from hypothesis import HealthCheck, settings

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
    """mosaicml-streaming, the other side of the differential tests.

    It imports torchvision at its top. A torchvision built for CUDA does not import beside a CPU
    build of torch; the parts used here never call it, so an empty module stands in for it then.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _stand_in_for_torchvision()
    return importlib.import_module("streaming")


def _stand_in_for_torchvision() -> None:
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        module = types.ModuleType(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)  # asked for by name
        sys.modules[module.__name__] = module
    sys.modules["torchvision.datasets"].VisionDataset = type("VisionDataset", (), {})
    sys.modules["torchvision.transforms.functional"].to_tensor = None
