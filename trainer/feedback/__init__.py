# SPDX-License-Identifier: Apache-2.0
"""Rewards for the probes the loader hands out, and the capture behind them for other trainers.

| file | holds |
|---|---|
| feedback | the object a trainer holds: reference set in, rewards by probe out |
| reference | the reference gradient and Adam's preconditioner |
| capture | the ghost form: hooks that see activations and output gradients |
| layers | which layers have a ghost form, and each one's |
| sharding | models of several processes: unwrapped, followed, refused |
| per_sample | the cosine reward, from the gradient of each document |
| scratch | memory kept from pass to pass |
| checks | what tells a model whose rewards would be wrong |
| neighbourhood, edges | D3's edges, measured on a model |
"""

from .capture import GhostCapture, Influence
from .checks import check_document_mask
from .feedback import Feedback, FeedbackConfig
from .reference import ReferenceGradient, precondition

__all__ = [
    "Feedback",
    "FeedbackConfig",
    "GhostCapture",
    "Influence",
    "ReferenceGradient",
    "check_document_mask",
    "precondition",
]
