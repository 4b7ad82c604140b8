# SPDX-License-Identifier: Apache-2.0
"""What a schedule asks of the model: the losses of the units' probes, and who helps whom.

A unit's probes are a fixed matrix of rows, a document a row, cut to equal length: as many of each
unit as the smallest has. The model comes out of a measurement bit for bit as it went in.
Legend: N units, M probes of a unit, L tokens of a probe.
Source: docs/d3.md, "Edges of a model".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..loader.errors import ConfigError
from ..loader.probes import UnitProbes
from ..loader.schedule import lookahead, lookahead_error
from .config import ScheduleSettings
from .cross_entropy import IGNORED_LABEL, token_losses
from .feedback.edges import look_ahead
from .feedback.neighbourhood import Neighbourhood
from .untouched import untouched

Floats = NDArray[np.float64]


class UnitMeasure:
    """Measures the units of a run.

    Args:
        model: Called as model(input_ids, position_ids).
        optimizer: Of Adam's kind, whose steps look-ahead takes; see `Neighbourhood`.
        probes: As `Loader.unit_probes` gives them.
        settings: Of the schedule.

    Raises:
        ConfigError: A unit has fewer than two probes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        probes: UnitProbes,
        settings: ScheduleSettings,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._settings = settings
        counts = np.bincount(probes.unit)
        self.num_probes = int(counts.min())
        if self.num_probes < 2:
            raise ConfigError(
                f"unit {int(counts.argmin())} has {self.num_probes} probes, two at least are "
                "needed: raise schedule.probes_per_unit, or merge units"
            )
        self._units = [self._unit(probes, unit) for unit in range(len(counts))]

    @property
    def rows_of_losses(self) -> int:
        """Rows that a measurement of the losses runs forward."""
        return len(self._units) * self.num_probes

    @property
    def rows_of_influence(self) -> int:
        """Rows forward that measuring influence costs; a backward pass counts as two."""
        num = len(self._units)
        return (3 * num + num * (num + 1)) * self.num_probes

    def wants_influence(self, round_id: int) -> bool:
        """Whether influence is measured with the losses of a round."""
        is_due = round_id % self._settings.refresh_rounds == 0
        return self._settings.edges == "lookahead" and is_due

    def losses(self) -> Floats:
        """Return each unit's mean loss per token, [N]."""
        with untouched(self._model), torch.no_grad():
            means = [loss().double().mean() for loss in self._closures()]
        return torch.stack(means).cpu().numpy()

    def influence(self, learning_rate: float) -> tuple[Floats, Floats, Floats]:
        """Return the losses [N], what a step on each unit does to each, [N, N], and its error."""
        point = Neighbourhood(self._model, self._optimizer)
        closures = self._closures()
        before, after = look_ahead(point, closures, closures, learning_rate)
        means = before.mean(axis=1)
        return means, lookahead(means, after.mean(axis=2)), lookahead_error(before, after)

    def _closures(self) -> list[Callable[[], Tensor]]:
        return [partial(self._document_losses, *unit) for unit in self._units]

    def _document_losses(self, ids: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Return the mean loss of each probe of a unit, [M]; fp32, for differences of gradients."""
        losses_ML = token_losses(self._model(ids, positions), labels).view(labels.shape)
        return losses_ML.sum(1) / (labels[:, 1:] != IGNORED_LABEL).sum(1).clamp_min(1)

    def _unit(self, probes: UnitProbes, unit: int) -> tuple[Tensor, Tensor, Tensor]:
        """Lay out a unit's probes: ids, labels and positions, [M, L] each."""
        device = next(self._model.parameters()).device
        chosen = np.flatnonzero(probes.unit == unit)[: self.num_probes]
        length = min(self._settings.max_probe_tokens, int(np.diff(probes.cu_seqlens).max()))
        ids = torch.zeros(self.num_probes, length, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED_LABEL)
        positions = torch.zeros_like(ids)  # padding: every token a segment of its own
        for row, probe in enumerate(chosen.tolist()):
            start, stop = probes.cu_seqlens[probe : probe + 2].tolist()
            tokens = torch.from_numpy(probes.tokens[start : min(stop, start + length)])
            ids[row, : len(tokens)] = tokens
            labels[row, 1 : len(tokens)] = tokens[1:]
            positions[row, : len(tokens)] = torch.arange(len(tokens))
        return ids.to(device), labels.to(device), positions.to(device)
