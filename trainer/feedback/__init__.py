# SPDX-License-Identifier: Apache-2.0
"""Rewards for the probes the loader hands out.

| file | holds |
|---|---|
| feedback | the object a trainer holds: reference set in, rewards by probe out |
| reference | the reference gradient and Adam's preconditioner |
| capture | the ghost form: hooks that see activations and output gradients |
| per_sample | the cosine reward, from the gradient of each document |
| scratch | memory kept from pass to pass |
| checks | what tells a model whose rewards would be wrong |
"""

from .feedback import Feedback, FeedbackConfig

__all__ = ["Feedback", "FeedbackConfig"]
