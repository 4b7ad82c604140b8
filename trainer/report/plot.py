# SPDX-License-Identifier: Apache-2.0
"""The look of every figure: colours, type, direct labels, and how a figure becomes SVG and PNG.

Colours are of the Okabe-Ito set, which colour-blind readers can tell apart; a run and an agent keep
theirs through the whole report. Text in the SVG stays text and takes the page's font.
"""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2933", "#66727f", "#d9dee4"
RUN_COLOURS = {"random": "#7a8691", "threshold": "#d55e00", "console": "#0072b2"}
OTHER_RUN_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
AGENT_COLOURS = ("#009e73", "#b2579a", "#c98500", "#56b4e9", "#8a4f2a", "#5b5ea6")
STATE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b2579a", "#c98500", "#56b4e9", "#8a4f2a")
ORDERED_COLOURS = ("#c9a227", "#7fa650", "#3a9a80", "#2b7a9b", "#31528f", "#3b2f74")
WIDE = (5.6, 3.3)

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": "#aab4be",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": "#aab4be",
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "moot",
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Drawn:
    """A figure ready for the page: its name, inline SVG, and what it shows in words."""

    name: str
    svg: str
    title: str
    caption: str


@dataclass(frozen=True)
class Label:
    """The label of a line, to stand at the right of its last point."""

    y: float
    text: str
    colour: str
    is_bold: bool = False


def run_colours(runs: Sequence[Any]) -> list[str]:
    """Return one colour a run: fixed by kind, spare colours for other kinds and second runs."""
    spare = iter(OTHER_RUN_COLOURS * len(runs))
    free = dict(RUN_COLOURS)
    return [free.pop(run.kind) if run.kind in free else next(spare) for run in runs]


def new_figure(size: tuple[float, float] = WIDE) -> "tuple[Figure, Axes]":
    """Return an empty figure of `size` inches with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def label_lines(axes: "Axes", labels: Sequence[Label], gap: float = 0.066) -> None:
    """Write labels at the right edge, moved apart to at least `gap` of the height.

    The limits of the y axis must be final. Labels outside of them stand at the edge.
    """
    low, high = axes.get_ylim()
    labels = sorted((label for label in labels if np.isfinite(label.y)), key=lambda la: la.y)
    if not labels:
        return
    wanted = np.clip([(label.y - low) / (high - low) for label in labels], 0, 1)
    for label, at, place in zip(labels, wanted, spread(wanted.tolist(), gap), strict=True):
        line = axes.plot(
            [1.0, 1.025],
            [at, place],
            color=label.colour,
            lw=0.7,
            alpha=0.7,
            transform=axes.transAxes,
            clip_on=False,
        )
        line[0].set_in_layout(False)
        axes.text(
            1.035,
            place,
            label.text,
            color=label.colour,
            va="center",
            ha="left",
            fontsize=9,
            weight="bold" if label.is_bold else "normal",
            transform=axes.transAxes,
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move sorted places in [0, 1] apart to at least `gap`, by the least sum of squares.

    Less the gaps, the places only have to rise: neighbours that do not are pooled at their mean.
    """
    num = len(wanted)
    gap = min(gap, 1.0 / max(num - 1, 1))
    pools: list[tuple[float, int]] = []
    for place, at in enumerate(wanted):
        mean, size = at - place * gap, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, size = (mean * size + other * others) / (size + others), size + others
        pools.append((mean, size))
    levels = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    return (np.clip(levels, 0, 1 - (num - 1) * gap) + gap * np.arange(num)).tolist()


def tokens_axis(axes: "Axes", last_tokens: float) -> None:
    """Make the x axis one of tokens: drawn in millions."""
    axes.set_xlim(0, last_tokens / 1e6)
    axes.set_xlabel("tokens trained on (millions)")


def finish(figure: "Figure", name: str, title: str, caption: str, folder: Path | None) -> Drawn:
    """Return the figure as inline SVG, and write it as `folder`/name.png if there is a folder."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    if folder is not None:
        figure.suptitle(title, x=0.012, ha="left", size=11, weight="bold")
        figure.savefig(folder / f"{name}.png", dpi=160)
    return Drawn(name, _inline(sink.getvalue(), name, title), title, caption)


def _inline(svg: str, name: str, title: str) -> str:
    """Make an SVG fit to stand inside a page beside others: own ids, the page's font, no size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
