# SPDX-License-Identifier: Apache-2.0
"""What D3 did in a run: who helps whom, the pace of the units, the gate's evidence.

From rounds.jsonl, chunks.jsonl and the schedule's numbers in metrics.jsonl. What is held of the
units is made again from the losses and influences of the rounds, as the schedule makes it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...loader.schedule import EdgeAverage, advantage_of, relative, solve_order, tolerance_of
from .curves import short
from .plot import FAINT, INK, MUTED, STATE_COLOURS, Label, label_lines, new_figure, tokens_axis
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_EDGES = 40
"""Arrows that are drawn, the strongest ones."""
_LABELLED = 10  # lines that are named at their end

Array = NDArray[Any]


def advantage(run: Run) -> tuple[Array, Array] | None:
    """Return the advantage and its tolerance, [N, N] each, as held at the end; None without any."""
    average, settings = EdgeAverage(), run.info["config"].get("schedule") or {}
    for row in run.rounds:
        if "influence" in row:
            losses = np.array(row["losses"])
            average.update(relative(row["influence"], losses), relative(row["error"], losses))
    if average.influence is None or average.error is None:
        return None
    num_errors = settings.get("num_errors", 2.0)
    return advantage_of(average.influence), tolerance_of(average.error, num_errors)


def influence_graph(run: Run, held: tuple[Array, Array]) -> "Figure":
    """Draw the units in the order that the graph asks for, and the strongest of its arrows."""
    from matplotlib.patches import FancyArrowPatch

    wanted, tolerance = held
    order = solve_order(wanted, tolerance).tolist()
    place = {unit: len(order) - 1 - at for at, unit in enumerate(order)}
    binding = np.argwhere((wanted > tolerance) & (wanted > 0))
    strength = wanted[tuple(binding.T)]
    strongest = np.argsort(-strength, kind="stable")[:MOST_EDGES]
    figure, axes = new_figure((5.6, 0.9 + 0.24 * len(order)))
    shares = _shares(run, "planned")[-1] if run.rounds else np.ones(len(order))
    for unit, height in place.items():
        size = 14 + 3 * float(shares[unit])
        axes.scatter(0, height, s=size, color=INK, zorder=3)
        axes.text(-0.03, height, short(run.units[unit], 44), ha="right", va="center", fontsize=7.5)
    for edge in strongest.tolist():
        first, later = (int(unit) for unit in binding[edge])
        is_kept = place[first] > place[later]
        width = 0.5 + 2.2 * float(strength[edge] / strength[strongest[0]])
        arrow = FancyArrowPatch(
            (0, place[first]),
            (0, place[later]),
            connectionstyle=f"arc3,rad={-0.8 if is_kept else 0.8}",
            arrowstyle="-|>",
            mutation_scale=7,
            lw=width,
            color="#0072b2" if is_kept else "#d55e00",
            alpha=0.5,
            shrinkA=3,
            shrinkB=3,
        )
        axes.add_patch(arrow)
    axes.set_xlim(-1.15, 1.0)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.axis("off")
    return figure


def mixture_over_time(run: Run) -> "Figure":
    """Draw planned and consumed shares of the units, summed over the run so far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    tokens = run.metrics["tokens"] / 1e6
    for axes, name in ((left, "planned"), (right, "consumed")):
        shares = _shares(run, name)
        known = shares.sum(axis=1) > 0
        colours = [STATE_COLOURS[u % len(STATE_COLOURS)] for u in range(shares.shape[1])]
        axes.stackplot(
            tokens[known], shares[known].T, colors=colours, alpha=0.75, lw=0.4, edgecolor="white"
        )
        axes.set_title(name, fontsize=9, color=MUTED, loc="left")
        tokens_axis(axes, run.metrics["tokens"][-1])
        axes.set_ylim(0, 100)
    left.set_ylabel("share of documents (%)")
    return figure


def losses_over_time(run: Run) -> "Figure":
    """Draw each unit's probe loss."""
    figure, axes = new_figure((5.6, 4.3))
    steps = np.array([row["step"] for row in run.rounds])
    losses = np.array([row["losses"] for row in run.rounds])
    labels = []
    for unit in range(losses.shape[1]):
        colour = STATE_COLOURS[unit % len(STATE_COLOURS)]
        axes.plot(steps, losses[:, unit], color=colour, lw=1.2, alpha=0.8)
        labels.append(Label(losses[-1, unit], short(run.units[unit]), colour))
    axes.margins(y=0.06)
    axes.set_ylim(axes.get_ylim())
    axes.set_xlabel("steps")
    axes.set_ylabel("loss of a unit's probes (nats a token)")
    chosen = np.linspace(0, len(labels) - 1, min(_LABELLED, len(labels))).astype(int)
    by_loss = sorted(labels, key=lambda label: label.y)
    label_lines(axes, [by_loss[at] for at in chosen], gap=0.052)
    return figure


def gate_evidence(run: Run) -> "Figure":
    """Draw the gambler's wealth over the chunks, and the mark at which the gate opens."""
    figure, axes = new_figure()
    rows = [row for row in run.chunks if "schedule/gate_evidence" in row]
    steps = np.array([row["step"] for row in rows])
    evidence = np.array([row["schedule/gate_evidence"] for row in rows])
    alpha = (run.info["config"].get("order") or {}).get("alpha", 0.05)
    axes.axhline(-np.log10(alpha), color="#d55e00", lw=1.0, ls=(0, (4, 3)))
    axes.text(steps[0], -np.log10(alpha), " opens", color="#d55e00", va="bottom", fontsize=8.5)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.plot(steps, evidence, color="#0072b2", drawstyle="steps-post")
    ordered = np.array([bool(row["is_ordered"]) for row in rows])
    axes.scatter(steps[ordered], evidence[ordered], s=16, color="#0072b2", zorder=3)
    axes.set_xlabel("steps")
    axes.set_ylabel("evidence (log10 of the wealth)")
    return figure


def _shares(run: Run, name: str) -> Array:
    """Return a column a unit, [rows, N], of the logged shares."""
    columns = [run.metrics[f"schedule/{name}_{unit}(%)"] for unit in range(len(run.units))]
    return np.nan_to_num(np.stack(columns, axis=1))
