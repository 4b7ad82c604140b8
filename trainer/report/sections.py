# SPDX-License-Identifier: Apache-2.0
"""The parts of the report's page: which figures, which examples, and what could not be shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...loader.errors import MootError
from . import curves, mixtures, schedule
from .documents import CLEAN, Documents, Excerpt, Facts
from .plot import AGENT_COLOURS, WIDE, Drawn, finish, run_colours
from .runs import Run
from .selection import Mixture, Pieces, choose_examples, mixture, read_pieces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_EXAMPLES = 5
MAX_CHARS = 400


@dataclass
class Material:
    """What all parts draw from, and where their figures go."""

    runs: Sequence[Run]
    figures: Path
    missing: list[str] = field(default_factory=list)
    pieces: dict[str, Pieces] = field(default_factory=dict)
    documents: Documents | None = None
    facts: Facts | None = None

    @property
    def chooser(self) -> Run | None:
        """The run whose choices are shown: the console's, else the last that has agents."""
        able = [run for run in self.runs if run.name in self.pieces and run.agents]
        return next((run for run in able if run.kind == "console"), able[-1] if able else None)

    def close(self) -> None:
        """Close the corpus."""
        if self.documents is not None:
            self.documents.close()

    def draw(self, figure: "Figure", name: str, title: str, caption: str = "") -> Drawn:
        """Finish a figure into the page and the folder of figures."""
        return finish(figure, name, title, caption, self.figures)


def gather_material(runs: Sequence[Run], figures: Path) -> Material:
    """Read ledgers and corpus; note in `missing` what is not there."""
    material = Material(runs, figures)
    for run in runs:
        pieces = read_pieces(run)
        if pieces is None:
            material.missing.append(f"run {run.name} has no ledger: its choices are not shown")
        else:
            material.pieces[run.name] = pieces
    url = next((run.corpus for run in runs if run.corpus), None)
    if not material.pieces or url is None:
        return material
    try:
        material.documents = Documents(url)
        ids = np.concatenate([pieces.sample_id for pieces in material.pieces.values()])
        material.facts = material.documents.facts(ids)
    except (MootError, ValueError) as error:
        material.missing.append(
            f"the corpus could not be read, texts and truth are left out: {error}"
        )
    if material.facts is not None and not material.facts.kinds:
        material.missing.append("the corpus has no truth.parquet: the share of damage is unknown")
    return material


def loss_figures(material: Material) -> list[Drawn]:
    """Draw the four loss curves."""
    runs, draw = material.runs, material.draw
    return [
        draw(
            curves.evaluation_loss(runs, "heldout_loss", "held-out loss"),
            "heldout-loss",
            "Held-out loss",
            "Documents set apart from the stream and from the reference set. Nothing steers by it.",
        ),
        draw(
            curves.evaluation_loss(runs, "reference_loss", "reference loss"),
            "reference-loss",
            "Reference loss",
            "The set whose gradient rewards the probes: the console's own target.",
        ),
        draw(
            curves.training_loss(runs),
            "training-loss",
            "Training loss",
            "On whatever each run selected, so runs are not comparable by it: text that is easier "
            "to predict gives a lower loss. Faint: as logged; bold: mean over 5 % of the run.",
        ),
        draw(
            curves.loss_over_time(runs, "heldout_loss", "held-out loss"),
            "heldout-loss-over-time",
            "Held-out loss against wall-clock",
            "Selection, feedback and evaluation included.",
        ),
    ]


def policy_figures(material: Material) -> list[Drawn]:
    """Draw theta and each agent's memory."""
    run = material.chooser
    if run is None:
        return []
    drawn = [
        material.draw(
            curves.theta_over_time(run),
            "theta",
            "Theta: how much each agent counts",
        )
    ]
    for place, agent in enumerate(run.agents):
        drawn.append(
            material.draw(
                curves.memory_over_time(run, place),
                f"memory-{agent.slug}",
                f"Memory of {agent.name}",
            )
        )
    return drawn


def schedule_figures(material: Material) -> list[Drawn]:
    """Draw what D3 did in the first run that has rounds or chunks."""
    drawn = []
    paced = next((run for run in material.runs if run.rounds and run.units), None)
    held = None if paced is None else schedule.advantage(paced)
    if paced is not None and held is not None:
        drawn.append(
            material.draw(
                schedule.influence_graph(paced, held),
                "influence-graph",
                "Who should go first",
                "Units from top to bottom in the order that the arrows ask for; a dot grows with "
                "the unit's planned share. An arrow goes from the unit that should go first, as "
                "wide as its advantage; orange ones cannot be kept. Only what exceeds its error "
                f"binds, and at most {schedule.MOST_EDGES} arrows are drawn.",
            )
        )
    if paced is not None:
        drawn.append(
            material.draw(
                schedule.mixture_over_time(paced),
                "planned-and-consumed",
                "Units: planned and consumed",
                "Documents of each unit, summed from the start: of the rounds behind, and as "
                "delivered. A round holds its proportions; how many documents fill its steps "
                "follows from their lengths, so the sums may drift apart.",
            )
        )
        drawn.append(
            material.draw(
                schedule.losses_over_time(paced), "unit-losses", "Losses of the units' probes"
            )
        )
    gated = next((run for run in material.runs if run.chunks and "drop" in run.chunks[0]), None)
    if gated is not None:
        drawn.append(
            material.draw(
                schedule.gate_evidence(gated),
                "gate",
                "Evidence that ordering batches helps",
                "A dot is a chunk that was ordered. Below the dashed line only chunks on trial "
                "are.",
            )
        )
    return drawn


def mixture_figures(material: Material) -> Iterator[tuple[str, list[Drawn], list[Drawn]]]:
    """Yield for each agent its name, two figures of all states, and one small figure a state."""
    run = material.chooser
    if run is None:
        return
    for place, agent in enumerate(run.agents):
        mix = mixture(material.pieces[run.name], _states(material, run, place), agent.labels)
        slug = f"mixture-{agent.slug}"
        pair = [
            material.draw(
                mixtures.overall(mix),
                slug,
                f"By {agent.name}, whole run",
                "Open: share of the offered tokens. Filled: share of the kept tokens.",
            ),
            material.draw(
                mixtures.ratio_over_time(mix),
                f"{slug}-over-time",
                f"By {agent.name}, kept share over offered share",
                "Blue: kept more than offered. White: none offered.",
            ),
        ]
        small = _small_figures(material, mix, slug) if agent.name == "domain" else []
        yield agent.name, pair, small


def damage_figures(material: Material) -> list[Drawn]:
    """Draw the share of degraded text among offered and kept, over time and by kind."""
    facts, chooser = material.facts, material.chooser
    if facts is None or CLEAN not in facts.kinds:
        return []
    mixes = {}
    for run, colour in zip(material.runs, run_colours(material.runs), strict=True):
        if run.name in material.pieces:
            pieces = material.pieces[run.name]
            labels = facts.find(facts.kind, pieces.sample_id)
            mixes[run.name] = (colour, mixture(pieces, labels, facts.kinds))
    shower = chooser.name if chooser else next(iter(mixes))
    shown = mixes[shower][1]
    return [
        material.draw(
            mixtures.degraded_share(shown, mixes),
            "degraded-share",
            "Degraded text, all runs",
            "Degraded copies were made when the corpus was built. Only this report reads which "
            "they are; no column, id or order tells an agent.",
        ),
        material.draw(
            mixtures.overall(shown.only(slice(1, None)), WIDE[1]),
            "degraded-kinds",
            "By kind of damage, whole run",
            f"Open: share of the tokens offered in the {shower} run. Filled: share of those kept.",
        ),
    ]


def examples(material: Material) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return (heading, note, cards) for documents accepted and documents rejected."""
    run = material.chooser
    if run is None or material.documents is None:
        return []
    pieces = material.pieces[run.name]
    groups = []
    for heading, kept in (("Accepted", True), ("Rejected", False)):
        rows = choose_examples(pieces, kept, NUM_EXAMPLES)
        texts = material.documents.excerpts(pieces.sample_id[rows].tolist(), MAX_CHARS)
        cards = [_card(material, run, pieces, int(row), texts) for row in rows]
        groups.append((heading, "kept" if kept else "rejected", cards))
    return groups


def _states(material: Material, run: Run, place: int) -> np.ndarray:
    return material.pieces[run.name].states[:, place].astype(np.int64)


def _small_figures(material: Material, mix: Mixture, slug: str) -> list[Drawn]:
    top = 115 * max(np.nanmax(mix.offered), np.nanmax(mix.kept))
    return [
        material.draw(mixtures.one_state(mix, state, top), f"{slug}-{state}", name)
        for state, name in enumerate(mix.names)
    ]


def _card(
    material: Material, run: Run, pieces: Pieces, row: int, texts: dict[int, Excerpt]
) -> dict[str, Any]:
    """Return what one example shows."""
    sample_id = int(pieces.sample_id[row])
    theta = _theta(run, int(pieces.step[row]))
    votes = []
    for place, agent in enumerate(run.agents):
        state = int(pieces.states[row, place])
        votes.append({
            "agent": agent.name,
            "state": agent.labels[state] if 0 <= state < len(agent.labels) else "unknown",
            "vote": float(pieces.votes[row, place]),
            "theta": float(theta[place]),
            "colour": AGENT_COLOURS[place % len(AGENT_COLOURS)],
        })
    facts, kind, domain = material.facts, None, None
    if facts is not None:
        number = int(facts.find(facts.kind, np.array([sample_id]))[0])
        kind = facts.kinds[number] if number >= 0 else None
        number = int(facts.find(facts.domain, np.array([sample_id]))[0])
        domain = run.domains[number] if 0 <= number < len(run.domains) else None
    return {
        "sample_id": sample_id,
        "step": int(pieces.step[row]),
        "tokens": int(pieces.length[row]),
        "score": float(pieces.score[row]),
        "votes": votes,
        "kind": kind,
        "is_clean": kind == CLEAN,
        "domain": domain,
        "excerpt": texts[sample_id],
    }


def _theta(run: Run, step: int) -> np.ndarray:
    assert run.ledger is not None
    steps = run.ledger.steps
    place = int(np.searchsorted(steps["step"].to_numpy(), step))
    return np.asarray(steps["theta"][place].as_py())
