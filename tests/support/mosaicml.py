# SPDX-License-Identifier: Apache-2.0
"""mosaicml-streaming imported also where its torchvision does not import."""

import importlib
import importlib.machinery
import sys
import types


def import_streaming() -> types.ModuleType:
    """Import mosaicml-streaming, the other side of the differential tests.

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
