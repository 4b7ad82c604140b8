# SPDX-License-Identifier: Apache-2.0
"""Compile every kernel for the capabilities given and print what each takes, as JSON lines.

Run by test_cubins.py in a process of its own, because Triton's interpreter must be off. The cases
stand in cubins/, one file an op. A second argument keeps the cases whose names start with it.
"""

import json
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CUOBJDUMP = triton.knobs.nvidia.cuobjdump.path
CUBINS = Path(__file__).with_name("cubins")
TENSOR_CORE = r"\b(?:HMMA|IMMA|HGMMA|IGMMA|QGMMA|UTC[A-Z]*MMA|OMMA|QMMA)\b"


def read_cases(prefix=""):
    """All cases of cubins/ whose names start with the prefix."""
    sys.path.append(str(CUBINS))  # `case`; at the end, for an op may be called like a module
    op = prefix.split("-")[0]
    files = sorted(path for path in CUBINS.glob(f"{op}*.py") if path.stem != "case")
    cases = [case for path in files for case in runpy.run_path(str(path))["CASES"]]
    return [case for case in cases if case.name.startswith(prefix)]


def compile_case(case, capability):
    """Compile with pointers that are multiples of 16 bytes, as torch allocates them.

    A launch looks at integers too: `divisible` names those that are multiples of 16.
    """
    names = case.kernel.arg_names
    signature = {name: case.types.get(name, "constexpr") for name in names}
    places = {(names.index(name),): value for name, value in case.constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name in case.divisible
        or (signature[name].startswith("*") and name not in case.unaligned)
    }
    source = ASTSource(case.kernel, signature, places, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=case.options)


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
        "tensor_core": len(re.findall(TENSOR_CORE, sass)),
        "shared": compiled.metadata.shared,
    }  # fmt: skip


def main():
    """Compile the cases for one capability; exit with 1 where a cubin breaks its case's promise."""
    capability = int(sys.argv[1])
    for case in read_cases(*sys.argv[2:3]):
        if capability not in case.capabilities:
            continue
        row = resources(compile_case(case, capability))
        promises = {
            "fused": case.fused or row["fused"] == 0,
            "tensor_core": not case.tensor_core or row["tensor_core"] > 0,
            "loads_128": not case.loads_128 or row["loads_128"] > 0,
        }
        broken = [name for name, kept in promises.items() if not kept]
        warps = case.options["num_warps"]
        head = {"case": case.name, "capability": capability, "warps": warps}
        print(json.dumps({**head, **row, "broken": broken}), flush=True)


if __name__ == "__main__":
    main()
