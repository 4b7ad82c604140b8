# SPDX-License-Identifier: Apache-2.0
"""Figures of what was selected: kept against offered, by state and by the truth about damage."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .curves import short
from .plot import FAINT, INK, MUTED, RUN_COLOURS, Label, label_lines, new_figure, tokens_axis
from .selection import Mixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OFFERED, KEPT = RUN_COLOURS["random"], RUN_COLOURS["console"]
MORE_LESS = ("#a84300", "#e8a06b", "#eeeeec", "#6aaed6", "#00507d")


def overall(mix: Mixture, height: float | None = None) -> "Figure":
    """Draw each state's share of the offered and of the kept tokens, over the whole run."""
    rows = np.arange(len(mix.names))
    figure, axes = new_figure((5.6, height or 0.9 + 0.27 * len(rows)))
    offered, kept = 100 * mix.offered_overall, 100 * np.nan_to_num(mix.kept_overall)
    axes.hlines(rows, offered, kept, color=FAINT, lw=3, zorder=1)
    axes.plot(offered, rows, "o", ms=7, mfc="white", mec=OFFERED, mew=1.8, zorder=2)
    axes.plot(kept, rows, "o", ms=7, color=KEPT, zorder=3)
    right = max(np.nanmax(offered), np.nanmax(kept))
    for row, (was, now) in enumerate(zip(offered, kept, strict=True)):
        axes.text(
            max(was, now) + 0.03 * right,
            row,
            f"{_percent(was)} to {_percent(now)}",
            va="center",
            color=MUTED,
            fontsize=8.5,
        )
    _state_axis(axes, mix)
    axes.set_xlim(min(0, -0.02 * right), 1.22 * right)
    axes.set_xlabel("share of tokens (%)")
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    return figure


def ratio_over_time(mix: Mixture) -> "Figure":
    """Draw the kept share over the offered share of each state as a map over time."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = new_figure((5.6, 0.9 + 0.27 * len(mix.names)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.clip(np.log2(mix.kept / mix.offered), -3, 3).T
    colours = LinearSegmentedColormap.from_list("more_less", MORE_LESS)
    width = mix.tokens[0] * 2 if len(mix.tokens) == 1 else mix.tokens[1] - mix.tokens[0]
    edges = np.append(mix.tokens - width / 2, mix.tokens[-1] + width / 2) / 1e6
    image = axes.pcolormesh(
        edges,
        np.arange(len(mix.names) + 1) - 0.5,
        np.ma.masked_invalid(ratio),
        cmap=colours,
        vmin=-3,
        vmax=3,
        edgecolors="white",
        linewidth=0.4,
    )
    _state_axis(axes, mix)
    tokens_axis(axes, edges[-1] * 1e6)
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, ticks=[-3, -2, -1, 0, 1, 2, 3], aspect=14, pad=0.02)
    bar.ax.set_yticklabels(["1/8x", "1/4x", "1/2x", "1x", "2x", "4x", "8x"])
    bar.ax.grid(visible=False)
    bar.outline.set_visible(False)
    return figure


def one_state(mix: Mixture, state: int, top: float) -> "Figure":
    """Draw one state's offered and kept share over time; `top` is the common height in %."""
    figure, axes = new_figure((2.9, 1.9))
    tokens = mix.tokens / 1e6
    offered, kept = 100 * mix.offered[:, state], 100 * mix.kept[:, state]
    axes.plot(tokens, offered, color=OFFERED, lw=1.5)
    axes.plot(tokens, kept, color=KEPT, lw=2.2)
    axes.fill_between(tokens, offered, kept, color=KEPT, alpha=0.10, lw=0)
    axes.set_ylim(0, top)
    axes.set_xlim(0, tokens[-1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=4)
    axes.set_title(short(mix.names[state]), loc="left", fontsize=10, weight="bold", color=INK)
    return figure


def degraded_share(
    offered: Mixture, kept: Mapping[str, tuple[str, Mixture]], clean: int = 0
) -> "Figure":
    """Draw the share of degraded text, offered and kept by each run.

    Args:
        offered: mixture by kind of damage whose offered share is the baseline.
        kept: name of a run -> its colour and mixture.
        clean: the state that means undamaged.
    """
    figure, axes = new_figure()
    tokens = offered.tokens / 1e6
    share = 100 * (1 - offered.offered[:, clean])
    axes.plot(tokens, share, color=INK, lw=1.2, ls=(0, (3, 3)))
    mean = 100 * (1 - offered.offered_overall[clean])
    labels = [Label(_end(share), f"offered, mean {mean:.0f} %", INK)]
    top = np.nanmax(share)
    for name, (colour, mix) in kept.items():
        share = 100 * (1 - mix.kept[:, clean])
        width = 2.4 if name == "console" else 1.7
        axes.plot(mix.tokens / 1e6, share, color=colour, lw=width)
        mean = 100 * (1 - mix.kept_overall[clean])
        labels.append(Label(_end(share), f"{name}, mean {mean:.0f} %", colour, name == "console"))
        top = max(top, np.nanmax(share))
    axes.set_ylim(0, 1.12 * top if top > 0 else 1)
    axes.set_ylabel("degraded text (% of tokens)")
    tokens_axis(axes, max([tokens[-1], *(mix.tokens[-1] / 1e6 for _, mix in kept.values())]) * 1e6)
    label_lines(axes, labels)
    return figure


def _state_axis(axes: "Axes", mix: Mixture) -> None:
    """Write the states' names beside the rows, the first on top."""
    axes.set_yticks(np.arange(len(mix.names)), [short(name) for name in mix.names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(mix.names) - 0.4, -0.6)


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 9.95 else f"{share:.1f} %"


def _end(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else float("nan")
