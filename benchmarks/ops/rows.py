# SPDX-License-Identifier: Apache-2.0
"""Rows of results: one dictionary an implementation, written as JSON and as a table."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from .facts import is_installed, short_name
from .timing import Timing

CEILINGS = {"gigabytes_per_s": "copy_gigabytes_per_s", "tflops": "matmul_tflops"}
"""Which ceiling a figure is set against."""
_FIGURES = ("tokens_per_s", "documents_per_s", *CEILINGS)


def row(
    op: str, implementation: str, timing: Timing, device: torch.device, **facts: Any
) -> dict[str, Any]:
    """Return one implementation's row; `facts` are shapes and figures of work per second."""
    return {
        "op": op, "implementation": implementation, "device": device.type,
        "median_us": round(timing.median_s * 1e6, 3),
        "fastest_us": round(timing.fastest_s * 1e6, 3),
        "slowest_us": round(timing.slowest_s * 1e6, 3),
        "trials": timing.trials, "calls": timing.calls, "host_bound": timing.host_bound,
        **facts,
    }  # fmt: skip


def not_installed(op: str, device: torch.device, rivals: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row for each rival's module that is not there, so that its absence is on record."""
    return [
        {"op": op, "implementation": name, "device": device.type, "missing": "not installed"}
        for name in rivals
        if not is_installed(name)
    ]


def table(rows: Sequence[dict[str, Any]], ceilings: dict[str, float]) -> str:
    """Return a markdown table: medians with their spread, work per second, share of the ceiling."""
    lines = [
        "| op | implementation | median us | fastest - slowest | work a second | of the ceiling |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for each in rows:
        head = f"| {each['op']} | {each.get('implementation', '')} |"
        if "median_us" not in each:
            said = each.get("missing") or f"failed: {each.get('failed', '?')}"
            lines.append(f"{head} {str(said).splitlines()[-1][:160]} | | | |")
            continue
        spread = f"{each['fastest_us']:,.1f} - {each['slowest_us']:,.1f}"
        work, share = _work(each, ceilings)
        lines.append(f"{head} {each['median_us']:,.1f} | {spread} | {work} | {share} |")
    return "\n".join(lines) + "\n"


def _work(each: dict[str, Any], ceilings: dict[str, float]) -> tuple[str, str]:
    """Word the figures of work per second, and the share of the ceiling."""
    units = {"tokens_per_s": "tokens", "documents_per_s": "documents",
             "gigabytes_per_s": "GB", "tflops": "TFLOP"}  # fmt: skip
    said = [f"{_short(each[name])} {units[name]}" for name in _FIGURES if name in each]
    shares = [
        f"{each[name] / ceilings[ceiling]:.0%}"
        for name, ceiling in CEILINGS.items()
        if name in each and ceilings.get(ceiling)
    ]
    return ", ".join(said), ", ".join(shares)


def _short(value: float) -> str:
    """Three digits, with M or k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def write(
    folder: Path, device: torch.device, month: str, content: dict[str, Any], *, with_table: bool
) -> Path:
    """Write ops_<machine>_<yyyymm>.json and, if wanted, .md beside it; returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ops_{short_name(device)}_{month}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    if with_table:
        facts = ", ".join(f"{name} {value}" for name, value in content["facts"].items())
        limits = ", ".join(f"{name} {value:.4g}" for name, value in content["ceilings"].items())
        head = f"# Ops on {short_name(device)}\n\n{facts}.\n\nCeilings of this run: {limits}.\n\n"
        path.with_suffix(".md").write_text(head + table(content["rows"], content["ceilings"]))
    return path
