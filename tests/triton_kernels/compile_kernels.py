# SPDX-License-Identifier: Apache-2.0
"""Compile every kernel for every architecture and print what each takes, as JSON lines.

Run by test_cubins.py in a process of its own, because Triton's interpreter must be off.
"""

import json
import re
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moot.triton_kernels.document_scores import kernel as scores_kernel
from moot.triton_kernels.select import kernel as select_kernel

CUOBJDUMP = triton.knobs.nvidia.cuobjdump.path
SCORES_POINTERS = {
    "cu_seqlens": "*i64", "table": "*i8", "heads": "*i16", "bias": "*i32", "scale": "*fp32",
    "kind": "*i32", "first_head": "*i32", "num_states": "*i32", "edges": "*fp32",
    "memory": "*fp32", "theta": "*fp32", "stored_states": "*i32", "values": "*fp32",
    "states": "*i32", "votes": "*fp32", "total": "*fp32", "bucket_mask": "i32", "H": "i32",
}  # fmt: skip
SELECT_POINTERS = {
    "votes": "*fp32", "theta": "*fp32", "shift": "*fp32", "scale": "*fp32", "ids": "*i64",
    "lengths": "*i32", "order": "*i32", "num_kept": "*i32", "scores": "*fp32",
    "seed_state": "i32", "temperature": "fp32", "max_count": "i32", "budget_tokens": "i64",
    "C": "i32",
}  # fmt: skip


def scores_case(name, tokens, dim, heads, agents=3, states=13, orders=0b1110):
    """One specialisation of document_scores: dtype of tokens and the shapes of the tables."""
    constants = {
        "D": dim, "A": agents, "S": states, "ORDERS": orders, "HAS_STORED": True,
        "BLOCK_T": 64, "BLOCK_D": min(64, triton.next_power_of_2(dim)),
        "BLOCK_H": max(16, triton.next_power_of_2(heads)), "BLOCK_S": 16,
    }  # fmt: skip
    signature = {"tokens": tokens, **SCORES_POINTERS}
    warps = 8 if constants["BLOCK_H"] > 32 else 4
    return name, scores_kernel.document_scores_fwd_kernel, signature, constants, warps


def select_case(name, agents, has_noise):
    """One specialisation of select."""
    constants = {
        "A": agents, "HAS_NOISE": has_noise,
        "BLOCK_I": select_kernel.BLOCK_I, "BLOCK_J": select_kernel.BLOCK_J,
    }  # fmt: skip
    warps = select_kernel.NUM_WARPS
    return name, select_kernel.select_fwd_kernel, SELECT_POINTERS, constants, warps


CASES = [
    scores_case("scores-u16-64", "*u16", 64, 21),
    scores_case("scores-i64-256", "*i64", 256, 21),
    scores_case("scores-i32-48-128heads", "*i32", 48, 128),
    scores_case("scores-u16-16-bigrams", "*u16", 16, 1, agents=1, states=2, orders=0b0100),
    select_case("select-3", 3, True),
    select_case("select-8-greedy", 8, False),
]


def compile_case(case, capability):
    """Compile with pointers that are multiples of 16 bytes, as torch allocates them."""
    _, kernel, signature, constants, warps = case
    names = kernel.arg_names
    full = {name: signature.get(name, "constexpr") for name in names}
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if full[name].startswith("*")
    }
    source = ASTSource(kernel, full, {(names.index(k),): v for k, v in constants.items()}, attributes)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(cubin):
    """Registers and stack bytes of a cubin, as cuobjdump reads them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        command = [CUOBJDUMP, "--dump-sass", file.name]
        sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (
        int(re.search(rf"{word}:(\d+)", text).group(1)) for word in ("REG", "STACK", "LOCAL")
    )
    opcodes = re.findall(r"\b([A-Z][A-Z0-9]+)(?:\.[A-Z0-9_.]+)?\s", sass)
    spills = sum(opcode in {"STL", "LDL"} for opcode in opcodes)
    wide = len(re.findall(r"LDG\.[A-Z0-9.]*128", sass))
    fused = opcodes.count("FFMA")
    return {"registers": registers, "stack": stack, "local": local, "spills": spills,
            "loads_128": wide, "ffma": fused}  # fmt: skip


def main():
    """Compile for the capabilities given as arguments."""
    for capability in map(int, sys.argv[1:]):
        for case in CASES:
            compiled = compile_case(case, capability)
            row = resources(compiled.asm["cubin"]) | {"shared": compiled.metadata.shared}
            print(json.dumps({"case": case[0], "capability": capability, **row}), flush=True)


if __name__ == "__main__":
    main()
