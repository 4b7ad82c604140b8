# SPDX-License-Identifier: Apache-2.0
"""The command line that every benchmark of an op has."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Measure = Callable[[torch.device, bool], list[dict[str, Any]]]


def main(measure: Measure) -> None:
    """Measure on the chosen device, print a JSON line for each row, optionally write them too."""
    asked = sys.modules["__main__"].__doc__ or ""
    parser = argparse.ArgumentParser(description=asked.splitlines()[0] if asked else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="smaller shapes, fewer trials")
    parser.add_argument("--out", type=Path, help="a file for the JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.dumps(row) for row in measure(torch.device(options.device), options.quick)]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("".join(line + "\n" for line in lines))
