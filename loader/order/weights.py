# SPDX-License-Identifier: Apache-2.0
"""How many samples of each stream an epoch draws, from `proportion`, `repeat` or `choose`.

The words mean what mosaicml-streaming means by them. `proportion` is relative: the epoch has a
size, each stream gets its share. `repeat` and `choose` are absolute: the epoch is their sum. A
stream without a weight is read once. Shares are cut to whole samples; what is left over goes to
the largest fractions, so the answer needs no seed and differs from theirs by one sample a stream
at most, and only where shares are no integers.
Source: `Stream.apply_weights` of mosaicml-streaming 0.13, for the meaning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Weight:
    """How much of a stream is read an epoch: at most one of the three, none reads it once."""

    proportion: float | None = None
    """Its share of the epoch, in proportion to those of the other streams."""
    repeat: float | None = None
    """How many times it is read; 0.5 reads half of it."""
    choose: int | None = None
    """How many samples are drawn."""

    def __post_init__(self) -> None:
        """Refuse two weights at once and values that no epoch can have."""
        given = self.given
        if len(given) > 1:
            raise ConfigError(f"a stream takes one of proportion, repeat, choose, not {given}")
        for name, value in given.items():
            if isinstance(value, bool) or not math.isfinite(value) or value < 0:
                raise ConfigError(f"{name} must be a finite number >= 0, not {value!r}")
        if self.choose is not None and self.choose != int(self.choose):
            raise ConfigError(f"choose must be a whole number of samples, not {self.choose!r}")

    @property
    def given(self) -> dict[str, float]:
        """The weights that are set, by name."""
        named = {"proportion": self.proportion, "repeat": self.repeat, "choose": self.choose}
        return {name: value for name, value in named.items() if value is not None}


def epoch_choose(
    samples: Sequence[int], weights: Sequence[Weight], epoch_size: int | None = None
) -> np.ndarray:
    """Count the samples that one epoch draws from each stream.

    Args:
        samples: How many samples each stream holds, >= 1.
        weights: One a stream. `proportion` is given to all streams or to none.
        epoch_size: Samples of an epoch; only with `proportion` everywhere, or with no weight at
            all, which then stands for proportions as large as the streams. None is their sum.

    Returns:
        [streams] int64, which sums to the epoch's size.

    Raises:
        ConfigError: Weights contradict each other, or nothing would be read.
    """
    held = np.asarray(samples, dtype=np.int64)
    _check(held, weights, epoch_size)
    if weights[0].proportion is not None:
        proportions = np.array([weight.proportion for weight in weights], dtype=np.float64)
        chosen = _shares(proportions, int(held.sum()) if epoch_size is None else epoch_size)
    elif epoch_size is not None:
        chosen = _shares(held.astype(np.float64), epoch_size)
    else:
        pairs = zip(weights, held.tolist(), strict=True)
        chosen = np.array([_absolute(weight, count) for weight, count in pairs], dtype=np.int64)
    if not chosen.any():
        raise ConfigError("the weights draw no sample from any stream: raise one of them")
    return chosen


def _check(held: np.ndarray, weights: Sequence[Weight], epoch_size: int | None) -> None:
    if len(held) != len(weights) or not len(held):
        raise ConfigError(f"{len(held)} streams need one weight each, not {len(weights)}")
    if (held < 1).any():
        raise ConfigError(f"stream {int(np.argmax(held < 1))} holds no samples")
    relative = [weight.proportion is not None for weight in weights]
    if any(relative) and not all(relative):
        raise ConfigError(
            f"stream {relative.index(False)} has no proportion, others have: "
            "proportion goes with no other weight, give it to all streams or to none"
        )
    if any(relative) and not any(weight.proportion for weight in weights):
        raise ConfigError("all proportions are 0: raise one of them")
    if epoch_size is None:
        return
    if epoch_size < 1:
        raise ConfigError(f"epoch_size must be at least 1, not {epoch_size}")
    if not all(relative) and any(weight.given for weight in weights):
        raise ConfigError(
            "epoch_size contradicts repeat and choose, whose sum is the epoch: "
            "leave it out, or weight the streams by proportion"
        )


def _shares(proportions: np.ndarray, size: int) -> np.ndarray:
    exact = size * (proportions / proportions.sum())
    whole = exact.astype(np.int64)
    left = size - int(whole.sum())
    largest = np.argsort(whole - exact, kind="stable")[:left]
    whole[largest] += 1
    return whole


def _absolute(weight: Weight, held: int) -> int:
    if weight.repeat is not None:
        return int(weight.repeat * held)
    return held if weight.choose is None else int(weight.choose)
