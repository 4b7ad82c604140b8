# SPDX-License-Identifier: Apache-2.0
"""The page: report.html beside the runs, and figures/*.png.

Self-contained: figures are inline SVG, styles are inline, nothing is fetched. All text that comes
from the corpus or a run is escaped by the template engine.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...loader.errors import ConfigError
from .comparison import HEADINGS, cells, compare, duration, millions
from .plot import STYLE, run_colours
from .runs import Run, find_runs
from .sections import (
    Material,
    damage_figures,
    examples,
    gather_material,
    loss_figures,
    mixture_figures,
    policy_figures,
    schedule_figures,
)

TEMPLATE = "page.html.j2"
SMALL_TOKENS = 1e9


def write_report(path: str | Path) -> Path:
    """Write the report of a run, or of all runs in a demo directory.

    Args:
        path: a run directory (with run.json), or a directory of runs.

    Returns:
        The path of report.html; figures/ beside it holds the same figures as PNG.

    Raises:
        ConfigError: there is no run, or matplotlib or jinja2 is not installed.
    """
    path = Path(path)
    runs = find_runs(path)
    _check_installed()
    import matplotlib

    figures = path / "figures"
    figures.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Names of states may hold any script; the page's fonts have what the PNGs' may lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        page = render(path, runs, figures)
    target = path / "report.html"
    unfinished = path / "report.html.part"
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(target)
    return target


def render(path: Path, runs: Sequence[Run], figures: Path) -> str:
    """Return the page as HTML; writes the PNG figures."""
    import jinja2

    material = gather_material(runs, figures)
    rows = compare(runs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    try:
        sections = _sections(material)
    finally:
        material.close()
    return environment.get_template(TEMPLATE).render(
        title=_title(path, runs),
        verdict=verdict(rows),
        headings=HEADINGS,
        rows=[
            {"cells": cells(row), "kind": row["kind"], "colour": colour}
            for row, colour in zip(rows, run_colours(runs), strict=True)
        ],
        facts=conditions(runs, rows),
        configs=[(run.name, json.dumps(run.info.get("config", {}), indent=1)) for run in runs],
        **sections,
        missing=material.missing,
        is_small=max(row["tokens"] for row in rows) < SMALL_TOKENS,
    )


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in sentences how the console did against the random run; empty if one is not there."""
    by_kind = {row["kind"]: row for row in reversed(rows)}
    if not {"random", "console"} <= set(by_kind):
        return []
    console, random = by_kind["console"], by_kind["random"]
    sentences = []
    for short, words in (("heldout", "held-out"), ("reference", "reference")):
        mine, theirs = console[f"{short}_loss"], random[f"{short}_loss"]
        if not np.isfinite([mine, theirs]).all():
            continue
        share = console[f"share_to_{short}"]
        ends = f"{mine:.3f} against {theirs:.3f}"
        sentences.append(
            f"The console came down to random's final {words} loss with {share:.2f}x of its "
            f"tokens, and ended at {ends}."
            if np.isfinite(share)
            else f"The console did not come down to random's final {words} loss: {ends}."
        )
    spent = console["selection_share"] + console["feedback_share"]
    if np.isfinite(spent):
        sentences.append(
            f"Selection and feedback took {spent:.1%} of its wall-clock of "
            f"{duration(console['wall_s'])}; random took {duration(random['wall_s'])}."
        )
    return sentences


def conditions(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what a reader has to know to judge the numbers: (what, value)."""
    found = [
        ("Machine", _common(runs, "machine")),
        ("Versions", _common(runs, "versions")),
        ("Seed", _common(runs, "seed")),
        ("Command", _common(runs, "command")),
        ("Corpus", _common(runs, "corpus")),
        ("Tokens", ", ".join(f"{row['run']} {millions(row['tokens'])}" for row in rows)),
        ("Speed", ", ".join(f"{row['run']} {_speed(row)}" for row in rows)),
        ("Evaluation", ", ".join(f"{r['run']} {duration(r['evaluation_s'])}" for r in rows)),
    ]
    return [(what, value) for what, value in found if value]


def _sections(material: Material) -> dict[str, Any]:
    chooser = material.chooser
    return {
        "losses": loss_figures(material),
        "policy": policy_figures(material),
        "schedule": schedule_figures(material),
        "damage": damage_figures(material),
        "mixtures": list(mixture_figures(material)),
        "examples": examples(material),
        "chooser": chooser.name if chooser else None,
        "num_seeds": len({str(_seed(run)) for run in material.runs}),
    }


def _title(path: Path, runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"Run {runs[0].name}"
    names = [run.name for run in runs]
    return ", ".join(names[:-1]) + f" and {names[-1]}: one model, the same number of tokens"


def _seed(run: Run) -> Any:
    return run.info.get("seed", run.info.get("config", {}).get("seed"))


def _common(runs: Sequence[Run], key: str) -> str:
    """Return a fact of run.json, once if the runs agree on it, else one a run."""
    values = [_flat(_seed(run) if key == "seed" else run.info.get(key)) for run in runs]
    if len(set(values)) == 1:
        return values[0]
    pairs = zip(runs, values, strict=True)
    return "; ".join(f"{run.name}: {value}" for run, value in pairs if value)


def _flat(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _speed(row: Mapping[str, Any]) -> str:
    speed = row["tokens_per_s"]
    return f"{speed:,.0f} tokens/s" if np.isfinite(speed) else "-"


def _check_installed() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the report needs {error.name}, which is not installed: pip install 'moot[report]'"
        ) from error
