# SPDX-License-Identifier: Apache-2.0
"""A schedule for a stream of documents: units are the streams of a loader.

Rounds are mixtures of streams, which the order changes at stated steps (`Loader.set_mixture`). What
cannot be paced is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config import LoaderConfig
from ..errors import ConfigError
from .config import ScheduleConfig
from .schedule import Schedule


def schedule_streams(
    config: ScheduleConfig,
    loader: LoaderConfig,
    *,
    weights: Sequence[int],
    num_strands: int,
    steps_ahead: int,
    begin: int = 0,
) -> Schedule:
    """Return the schedule of a loader's streams.

    With packing="pad" a row is a document, so rounds hold exactly their counts; elsewhere a round
    holds its units in these proportions, and how many documents fit its steps is up to them.

    Args:
        config: How to pace.
        loader: The settings of the loader.
        weights: Of the streams, as the loader begins.
        num_strands: Of its order: each draws its own part of a round.
        steps_ahead: How many steps may be planned beyond those delivered.
        begin: The step at which the first horizon begins.

    Raises:
        ConfigError: Labels are inline, the order is foreign, there is one stream, or a decision
            would come for steps that may be planned already.
    """
    if loader.selects_inline:
        raise ConfigError(
            "a schedule paces units whose labels are stored: this loader's console labels inline, "
            "where a step's candidates are fixed before their units are known; pass "
            "labels='stored', or leave out the schedule"
        )
    if loader.order != "strands":
        raise ConfigError(f"a schedule needs order='strands': order={loader.order!r} is not ours")
    if len(weights) < 2:
        raise ConfigError(
            "a schedule paces streams or units against each other, here is one: give several "
            "streams, or a console with labels='stored'"
        )
    if config.lag_rounds * config.round_steps < steps_ahead:
        raise ConfigError(
            f"schedule.lag_rounds {config.lag_rounds} of {config.round_steps} steps must be at "
            f"least {steps_ahead} steps: so many may be planned ahead"
        )
    per_step = 1 if config.inside == "ordered" else loader.batch_rows // num_strands
    return Schedule(weights, config, per_step, begin)
