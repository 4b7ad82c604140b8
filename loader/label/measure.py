# SPDX-License-Identifier: Apache-2.0
"""How good the labels are on documents that the fit never saw."""

from __future__ import annotations

import numpy as np


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Probability that a value of `higher` exceeds one of `lower`, ties counting one half.

    Returns:
        A share in [0, 1]; NaN where either side is empty.
    """
    if not len(higher) or not len(lower):
        return float("nan")
    ranked = np.sort(lower)
    below = np.searchsorted(ranked, higher, side="left")
    not_above = np.searchsorted(ranked, higher, side="right")
    return float((below + not_above).sum(dtype=np.float64) / (2.0 * len(higher) * len(lower)))


def balanced_accuracy(is_true: np.ndarray, is_said: np.ndarray) -> float:
    """Mean of the shares said right among the true and among the false; NaN where one is empty."""
    if is_true.all() or not is_true.any():
        return float("nan")
    return float((is_said[is_true].mean() + (~is_said[~is_true]).mean()) / 2.0)


def confusion(true: np.ndarray, said: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pieces by true (rows) and said class (columns): [k, k] int64."""
    cell = true * num_classes + said
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)
