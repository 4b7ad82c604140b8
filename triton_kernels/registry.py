# SPDX-License-Identifier: Apache-2.0
"""The ops as torch knows them: `torch.ops.moot.<op>`, each with a schema and a fake.

A registered op is one node to torch.compile and is captured whole in a CUDA graph. Public functions
check their arguments, then call the registered op; the op chooses the implementation. Nothing
here is differentiable: scores are numbers about data, not part of a loss.
Source: torch.library, the low-level way (a call costs about 3 us, `custom_op` 15 us).
"""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("moot", "DEF")
"""Lives as long as the process; ops vanish from torch when it is freed."""


def register(
    schema: str, run: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverload:
    """Define `moot::<name>` for CPU and CUDA tensors.

    Args:
        schema: As torch writes them, e.g. "double(Tensor x) -> Tensor". Results are new tensors.
        run: Computes the results on either device. Called with checked arguments.
        fake: Returns empty tensors of the results' shapes and dtypes; looks at no content.

    Returns:
        The op, to be called with positional arguments.
    """
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, key)
    torch.library.register_fake(f"moot::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.moot, name).default
