# SPDX-License-Identifier: Apache-2.0
"""Figures of the runs: losses against tokens and time, theta, the agents' memories."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .comparison import tokens_to_reach
from .plot import (
    AGENT_COLOURS,
    INK,
    MUTED,
    ORDERED_COLOURS,
    STATE_COLOURS,
    Label,
    label_lines,
    new_figure,
    run_colours,
    tokens_axis,
)
from .runs import Run
from .selection import rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]


def training_loss(runs: Sequence[Run]) -> "Figure":
    """Draw the training loss of all runs: raw faint, smoothed over 5 % of the run."""
    figure, axes = new_figure()
    lines = []
    for run, colour in zip(runs, run_colours(runs), strict=True):
        tokens, loss = _finite(run.metrics["tokens"], run.metrics["loss"])
        if len(tokens) == 0:
            continue
        smooth = smoothed(loss, max(1, len(loss) // 20))
        axes.plot(tokens / 1e6, loss, color=colour, lw=0.6, alpha=0.25)
        axes.plot(tokens / 1e6, smooth, color=colour, lw=_width(run))
        lines.append((run, colour, tokens, smooth))
    _finish_losses(axes, lines, "training loss (nats per token)")
    tokens_axis(axes, _last(line[2] for line in lines))
    return figure


def evaluation_loss(runs: Sequence[Run], name: str, words: str) -> "Figure":
    """Draw the reference or held-out loss against tokens, with the way to random's final loss."""
    figure, axes = new_figure()
    lines = []
    for run, colour in zip(runs, run_colours(runs), strict=True):
        tokens, loss = _finite(run.evals["tokens"], run.evals.get(name, np.empty(0)))
        if len(tokens) == 0:
            continue
        axes.plot(tokens / 1e6, loss, color=colour, lw=_width(run), marker="o", ms=2.6)
        lines.append((run, colour, tokens, loss))
    _finish_losses(axes, lines, f"{words} (nats per token)")
    _mark_reach(axes, lines)
    tokens_axis(axes, _last(line[2] for line in lines))
    return figure


def loss_over_time(runs: Sequence[Run], name: str, words: str) -> "Figure":
    """Draw a loss against wall-clock, everything that a run spends included."""
    figure, axes = new_figure()
    lines = []
    for run, colour in zip(runs, run_colours(runs), strict=True):
        wall_s, loss = _finite(run.evals["wall_s"], run.evals.get(name, np.empty(0)))
        if len(wall_s) == 0:
            continue
        axes.plot(wall_s, loss, color=colour, lw=_width(run), marker="o", ms=2.6)
        lines.append((run, colour, wall_s, loss))
    _finish_losses(axes, lines, f"{words} (nats per token)")
    axes.set_xlim(0, _last(line[2] for line in lines))
    axes.set_xlabel("wall-clock since the start of the run (s)")
    return figure


def theta_over_time(run: Run) -> "Figure":
    """Draw the weight of each agent."""
    figure, axes = new_figure()
    tokens, theta = policy_history(run)[:2]
    labels = []
    for place, agent in enumerate(run.agents):
        colour = AGENT_COLOURS[place % len(AGENT_COLOURS)]
        axes.plot(tokens / 1e6, theta[:, place], color=colour, drawstyle="steps-post", lw=2.2)
        labels.append(Label(theta[-1, place], f"{agent.name} {theta[-1, place]:.2f}", colour, True))
    low, high = min(0.0, float(np.nanmin(theta))), float(np.nanmax(theta))
    axes.set_ylim(low * 1.1, max(high * 1.12, 0.5))
    axes.set_ylabel("theta (weight of the agent)")
    tokens_axis(axes, tokens[-1])
    label_lines(axes, labels)
    return figure


def memory_over_time(run: Run, place: int) -> "Figure":
    """Draw the memory of one agent: one line a state, named at its end."""
    agent = run.agents[place]
    num_states = len(agent.states)
    figure, axes = new_figure((5.6, 3.3 if num_states <= 6 else 4.3))
    tokens, _, memory = policy_history(run)
    memory = memory[:, place, :num_states]
    labels = []
    axes.axhline(0, color="#c5cdd5", lw=0.8, zorder=0.5)
    for state, colour in enumerate(state_colours(agent.name, memory[-1])):
        strong = colour != MUTED
        axes.plot(
            tokens / 1e6,
            memory[:, state],
            color=colour,
            drawstyle="steps-post",
            lw=1.8 if strong else 1.0,
            alpha=1 if strong else 0.55,
            zorder=3 if strong else 2,
        )
        labels.append(Label(memory[-1, state], short(agent.labels[state]), colour))
    axes.margins(y=0.06)
    axes.set_ylim(axes.get_ylim())
    axes.set_ylabel("memory (weight of the state)")
    tokens_axis(axes, tokens[-1])
    label_lines(axes, labels, gap=0.066 if num_states <= 6 else 0.052)
    return figure


def policy_history(run: Run) -> tuple[Array, Array, Array]:
    """Return tokens [m], theta [m, A] and memory [m, A, S] wherever the policy changed.

    The first and the last step are always there.
    """
    assert run.ledger is not None
    steps = run.ledger.steps
    version = steps["policy_version"].to_numpy()
    changed = np.append(True, version[1:] != version[:-1])
    changed[-1] = True
    rows = np.flatnonzero(changed)
    picked = steps.take(rows)
    theta = rows_of(picked["theta"])
    memory = rows_of(picked["memory"]).reshape(len(rows), theta.shape[1], -1)
    tokens = run.tokens_at(picked["step"].to_numpy() - 1)
    tokens[-1] = run.tokens_at(steps["step"].to_numpy()[-1:])[0]
    return tokens, theta, memory


def state_colours(agent: str, final: Array) -> list[str]:
    """Return a colour a state: a ramp for quality, hues for few states, else only the extremes."""
    num = len(final)
    if agent == "quality":
        picks = np.linspace(0, len(ORDERED_COLOURS) - 1, num).round().astype(int)
        return [ORDERED_COLOURS[pick] for pick in picks]
    if num <= len(STATE_COLOURS):
        return list(STATE_COLOURS[:num])
    order = np.argsort(-final, kind="stable")
    colours = [MUTED] * num
    for state, colour in zip([*order[:3], *order[-2:]], STATE_COLOURS, strict=False):
        colours[int(state)] = colour
    return colours


def short(text: str, most: int = 24) -> str:
    """Cut a name to a length that fits beside a figure."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def smoothed(values: Array, width: int) -> Array:
    """Return the mean over the `width` // 2 values on either side, as far as there are any."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first = np.maximum(place - width // 2, 0)
    last = np.minimum(place + width // 2, len(values) - 1)
    return (total[last + 1] - total[first]) / (last + 1 - first)


def _finish_losses(
    axes: "Axes", lines: Sequence[tuple[Run, str, Array, Array]], words: str
) -> None:
    """Cut off the steep start, name the lines, label the axis."""
    axes.set_ylabel(words)
    if not lines:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=MUTED)
        return
    tops = [np.interp(0.1 * x[-1], x, y) for _, _, x, y in lines]
    low, high = min(y.min() for *_, y in lines), max(tops)
    if high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))
    label_lines(
        axes,
        [
            Label(y[-1], f"{run.name} {y[-1]:.3f}", colour, run.kind == "console")
            for run, colour, _, y in lines
        ],
    )


def _mark_reach(axes: "Axes", lines: Sequence[tuple[Run, str, Array, Array]]) -> None:
    """Mark where the console comes down to the random run's final loss."""
    by_kind = {run.kind: (colour, x, y) for run, colour, x, y in reversed(lines)}
    if "random" not in by_kind or "console" not in by_kind:
        return
    _, all_tokens, losses = by_kind["random"]
    colour, tokens, console = by_kind["console"]
    reach = tokens_to_reach(tokens, console, losses[-1])
    if not np.isfinite(reach):
        return
    axes.plot(
        [reach / 1e6, all_tokens[-1] / 1e6], [losses[-1]] * 2, color=INK, lw=0.9, ls=(0, (3, 3))
    )
    axes.plot(reach / 1e6, losses[-1], "o", ms=6.5, mfc="white", mec=colour, mew=1.8, zorder=5)
    axes.annotate(
        f"{reach / all_tokens[-1]:.2f}x random's tokens",
        (reach / 1e6, losses[-1]),
        xytext=(-6, -9),
        textcoords="offset points",
        ha="right",
        va="top",
        color=colour,
        fontsize=9,
        weight="bold",
    )


def _finite(x: Array, y: Array) -> tuple[Array, Array]:
    if len(x) != len(y):
        return np.empty(0), np.empty(0)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _width(run: Run) -> float:
    return 2.4 if run.kind == "console" else 1.7


def _last(values: Any) -> float:
    return max((float(array[-1]) for array in values), default=1.0)
