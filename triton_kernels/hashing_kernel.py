# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""The 32-bit hash as Triton functions on uint32 tensors; hashing.py is the specification."""

import triton
import triton.language as tl


@triton.jit
def start_state(size: tl.constexpr):
    """Return `size` fresh states."""
    return tl.full([size], 0x6D6F6F74, tl.uint32)


@triton.jit
def absorb(state, word):
    """Mix a word into a state."""
    mixed = (word ^ state) * 0x9E3779B1
    return mixed ^ (mixed >> 15)


@triton.jit
def finish(state):
    """Spread every bit of a state over all 32."""
    state = (state ^ (state >> 16)) * 0x85EBCA6B
    state = (state ^ (state >> 13)) * 0xC2B2AE35
    return state ^ (state >> 16)
