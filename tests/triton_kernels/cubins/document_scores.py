# SPDX-License-Identifier: Apache-2.0
"""document_scores as its launcher specialises it."""

import torch
from case import Case
from moot.triton_kernels import AgentTables, NgramModel
from moot.triton_kernels.document_scores import kernel

TYPES = {
    "cu_seqlens": "*i64", "table": "*i8", "heads": "*i16", "bias": "*i32", "scale": "*fp32",
    "kind": "*i32", "first_head": "*i32", "num_states": "*i32", "edges": "*fp32",
    "memory": "*fp32", "theta": "*fp32", "stored_states": "*i32", "values": "*fp32",
    "states": "*i32", "votes": "*fp32", "total": "*fp32", "bucket_mask": "i32", "H": "i32",
}  # fmt: skip


def make_case(name, tokens, dim, heads, agents=3, states=13, orders=(1, 2, 3), loads_128=False):
    """One specialisation, with the constants that the launcher takes."""
    model = NgramModel(
        torch.zeros(2, dim, dtype=torch.int8), torch.zeros(heads, dim, dtype=torch.int16),
        torch.zeros(heads, dtype=torch.int32), torch.ones(heads), orders,
    )  # fmt: skip
    whole = torch.ones(agents, dtype=torch.int32)
    edges, memory = torch.zeros(agents, states - 1), torch.zeros(agents, states)
    tables = AgentTables(whole, whole, whole, edges, memory, torch.ones(agents))
    constants = kernel.launch_shape(model, tables) | {"HAS_STORED": True}
    options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": False}
    return Case(
        name=name, kernel=kernel.document_scores_fwd_kernel, types={"tokens": tokens, **TYPES},
        constants=constants, options=options, fused=False, loads_128=loads_128,
    )  # fmt: skip


CASES = [
    make_case("document_scores-u16-64", "*u16", 64, 21, loads_128=True),
    make_case("document_scores-i64-256", "*i64", 256, 21),
    make_case("document_scores-i32-48-128heads", "*i32", 48, 128),
    make_case("document_scores-u16-16-bigrams", "*u16", 16, 1, agents=1, states=2, orders=(2,)),
]
