# SPDX-License-Identifier: Apache-2.0
"""One specialisation of a kernel to be compiled, and what its cubin must show."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the launcher would pass on a GPU.

    Attributes:
        name: "<op>-<specialisation>".
        kernel: The function under @triton.jit.
        types: Triton's type of every argument that is no constant ("*bf16", "i32", ...).
        constants: Values of the constexpr arguments.
        options: num_warps, num_stages, enable_fp_fusion, as at launch.
        capabilities: Where this specialisation is launched; tiles may differ by architecture.
        fused: False where the bits promise forbids fused multiply-add.
        tensor_core: Whether a tensor-core instruction must show.
        loads_128: Whether a global load of 16 bytes must show.
        unaligned: Pointers that are not multiples of 16 bytes.
        divisible: Integers that are multiples of 16: a launch then knows that rows are aligned.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    capabilities: tuple[int, ...] = (80, 90, 100, 120)
    fused: bool = True
    tensor_core: bool = False
    loads_128: bool = False
    unaligned: tuple[str, ...] = field(default=())
    divisible: tuple[str, ...] = ()
