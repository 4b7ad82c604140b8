# SPDX-License-Identifier: Apache-2.0
"""Float parameters to the integers that `document_scores` reads, and how well the two agree.

The table becomes int8 with one step for all, each head int16 with its own step, the bias int32 in
units of the product of both, so that `value = (sum of integers) * scale / count` approximates the
float logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...triton_kernels.document_scores import AgentTables, NgramModel, document_scores
from .heads import FloatModel
from .pieces import Pieces

INT8_MAX, INT16_MAX, INT32_MAX = 127, 32767, 2**31 - 1


@dataclass(frozen=True)
class Agreement:
    """Quantised against float values.

    Attributes:
        max_abs_error: the largest difference of any value.
        mean_abs_error: the mean difference.
        same_topic_share: share of pieces whose largest topic head is the same.
    """

    max_abs_error: float
    mean_abs_error: float
    same_topic_share: float


def quantize(model: FloatModel, orders: tuple[int, ...]) -> NgramModel:
    """Round a float model to the op's integers; deterministic."""
    table_step = _step(model.table, INT8_MAX)
    table = np.rint(model.table / table_step).astype(np.int8)
    head_step = np.array([_step(head, INT16_MAX) for head in model.heads])
    heads = np.rint(model.heads / head_step[:, None]).astype(np.int16)
    scale = table_step * head_step
    bias = np.clip(np.rint(model.bias / scale), -INT32_MAX, INT32_MAX).astype(np.int32)
    return NgramModel(
        torch.from_numpy(table),
        torch.from_numpy(heads),
        torch.from_numpy(bias),
        torch.from_numpy(scale.astype(np.float32)),
        tuple(orders),
    )


def score(model: NgramModel, pieces: Pieces) -> np.ndarray:
    """Return the values [n, H] float32 that `document_scores` gives the pieces."""
    none = torch.zeros(0, dtype=torch.int32)
    edges, memory, theta = torch.zeros((0, 0)), torch.zeros((0, 1)), torch.zeros(0)
    no_agents = AgentTables(none, none, none, edges, memory, theta)
    tokens, cu_seqlens = torch.from_numpy(pieces.tokens), torch.from_numpy(pieces.cu_seqlens)
    return document_scores(tokens, cu_seqlens, model, no_agents).values.numpy()


def compare(float_values: np.ndarray, values: np.ndarray) -> Agreement:
    """Compare float logits [n, H] with quantised values [n, H]; head 0 is quality."""
    error = np.abs(float_values - values)
    same = float_values[:, 1:].argmax(axis=1) == values[:, 1:].argmax(axis=1)
    return Agreement(float(error.max()), float(error.mean()), float(same.mean()))


def _step(values: np.ndarray, largest: int) -> float:
    """The size of one integer step so that `values` reach `largest`; 1 where all are zero."""
    peak = float(np.abs(values).max(initial=0.0))
    return peak / largest if peak > 0 else 1.0
