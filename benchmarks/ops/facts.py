# SPDX-License-Identifier: Apache-2.0
"""What a reader of figures has to know: device, machine, versions, commit."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def facts(device: torch.device) -> dict[str, object]:
    """Return device, processor, versions and commit."""
    found: dict[str, object] = {
        "device": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "moot": version("moot"),
        "commit": commit(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "host": processor(),
        }
    return found


def processor() -> str:
    """Return the processor's model name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def short_name(device: torch.device) -> str:
    """Name the machine as files of results do: `h200`, or `xeon2` for two cores of a Xeon."""
    if device.type == "cuda":
        known = [word for word in torch.cuda.get_device_name(device).split() if word != "NVIDIA"]
        return known[0].lower()
    words = processor().lower().replace("(r)", "").split()
    kinds = [word for word in words if word in {"xeon", "epyc", "ryzen", "core"}]
    return f"{(kinds or [platform.machine()])[0]}{len(os.sched_getaffinity(0))}"


def version(package: str) -> str | None:
    """Return an installed distribution's version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_installed(module: str) -> bool:
    """Tell whether a module could be imported; imports nothing."""
    return importlib.util.find_spec(module) is not None


def commit() -> str:
    """Return the commit of this tree, with + where an op has changed since."""
    if shutil.which("git") is None:
        return "unknown"
    head = _git("rev-parse", "--short", "HEAD") or "unknown"
    return head + ("+" if _git("status", "--porcelain", "--", "csrc", "triton_kernels") else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
