# SPDX-License-Identifier: Apache-2.0
"""Compile every kernel for the capabilities given and print what each takes, as JSON lines.

Run by test_cubins.py in a process of its own, because Triton's interpreter must be off.
"""

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from moot.triton_kernels import AgentTables, NgramModel
from moot.triton_kernels.document_scores import kernel as scores_kernel
from moot.triton_kernels.select import kernel as select_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CUOBJDUMP = triton.knobs.nvidia.cuobjdump.path
SCORES_TYPES = {
    "cu_seqlens": "*i64", "table": "*i8", "heads": "*i16", "bias": "*i32", "scale": "*fp32",
    "kind": "*i32", "first_head": "*i32", "num_states": "*i32", "edges": "*fp32",
    "memory": "*fp32", "theta": "*fp32", "stored_states": "*i32", "values": "*fp32",
    "states": "*i32", "votes": "*fp32", "total": "*fp32", "bucket_mask": "i32", "H": "i32",
}  # fmt: skip
SELECT_TYPES = {
    "votes": "*fp32", "theta": "*fp32", "shift": "*fp32", "scale": "*fp32", "ids": "*i64",
    "lengths": "*i32", "order": "*i32", "num_kept": "*i32", "scores": "*fp32",
    "seed_state": "i32", "temperature": "fp32", "max_count": "i32", "budget_tokens": "i64",
    "C": "i32",
}  # fmt: skip


def scores_case(name, tokens, dim, heads, agents=3, states=13, orders=(1, 2, 3)):
    """One specialisation of document_scores, with the constants that its launcher takes."""
    model = NgramModel(
        torch.zeros(2, dim, dtype=torch.int8), torch.zeros(heads, dim, dtype=torch.int16),
        torch.zeros(heads, dtype=torch.int32), torch.ones(heads), orders,
    )  # fmt: skip
    whole = torch.ones(agents, dtype=torch.int32)
    edges, memory = torch.zeros(agents, states - 1), torch.zeros(agents, states)
    tables = AgentTables(whole, whole, whole, edges, memory, torch.ones(agents))
    constants = scores_kernel.launch_shape(model, tables) | {"HAS_STORED": True}
    warps = constants.pop("num_warps")
    types = {"tokens": tokens, **SCORES_TYPES}
    return name, scores_kernel.document_scores_fwd_kernel, types, constants, warps


def select_case(name, agents, has_noise):
    """One specialisation of select."""
    constants = {
        "A": agents, "HAS_NOISE": has_noise,
        "BLOCK_I": select_kernel.BLOCK_I, "BLOCK_J": select_kernel.BLOCK_J,
    }  # fmt: skip
    warps = select_kernel.NUM_WARPS
    return name, select_kernel.select_fwd_kernel, SELECT_TYPES, constants, warps


CASES = [
    scores_case("scores-u16-64", "*u16", 64, 21),
    scores_case("scores-i64-256", "*i64", 256, 21),
    scores_case("scores-i32-48-128heads", "*i32", 48, 128),
    scores_case("scores-u16-16-bigrams", "*u16", 16, 1, agents=1, states=2, orders=(2,)),
    select_case("select-3", 3, True),
    select_case("select-8-greedy", 8, False),
]


def compile_case(case, capability):
    """Compile with pointers that are multiples of 16 bytes, as torch allocates them."""
    _, kernel, types, constants, warps = case
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(kernel, signature, places, aligned)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def dump(cubin, what):
    """What the bundled cuobjdump prints of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, what, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(compiled):
    """Registers, bytes and telling instructions of a compiled kernel."""
    usage = dump(compiled.asm["cubin"], "--dump-resource-usage")
    sass = dump(compiled.asm["cubin"], "--dump-sass")
    registers, stack, local = (
        int(re.search(rf"{word}:(\d+)", usage).group(1)) for word in ("REG", "STACK", "LOCAL")
    )
    return {
        "registers": registers, "stack": stack, "local": local,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        "loads_128": len(re.findall(r"\bLDG\.[A-Z0-9.]*128", sass)),
        "fused": len(re.findall(r"\bfma\.rn\.f32", compiled.asm["ptx"])),
        "shared": compiled.metadata.shared,
    }  # fmt: skip


def main():
    """Compile for the capabilities given as arguments."""
    for capability in map(int, sys.argv[1:]):
        for case in CASES:
            row = resources(compile_case(case, capability))
            print(json.dumps({"case": case[0], "capability": capability, **row}), flush=True)


if __name__ == "__main__":
    main()
