# SPDX-License-Identifier: Apache-2.0
"""What do the losses of packed documents cost beside the product of hidden states and head?

    python benchmarks/bench_sequence_loss.py [--device cuda] [--quick] [--out FILE.jsonl]

On CUDA in bf16: the fused kernel against torch's expression, the same compiled, torch's own
linear_cross_entropy where torch has it, and Liger, cut-cross-entropy and QuACK where installed;
the floor is the product alone. On the CPU there is no kernel: the reference in fp32 against the
expression with all logits at once. Nearness to fp64 gates all.
"""

from collections.abc import Callable

import torch
from moot.triton_kernels.sequence_loss import sequence_loss, token_losses
from ops import interleaved, main, not_installed, rotated, row
from torch import Tensor
from torch.nn import functional

OP = "sequence_loss"
RIVALS = ["liger_kernel", "cut_cross_entropy", "quack"]
Work = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_inputs(device: torch.device, tokens: int, width: int, vocabulary: int) -> tuple:
    """Hidden states, a head whose logits are of order 1, targets, documents of 256 tokens."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    hidden = torch.randn(tokens, width, device=device).to(dtype)
    weight = (torch.randn(vocabulary, width, device=device) / width**0.5).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), device=device)
    return hidden, weight, targets, torch.arange(0, tokens + 1, 256, device=device)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Each token's loss, all logits in memory."""
    return functional.cross_entropy(hidden @ weight.T, targets, reduction="none")


def check(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Raise where the op is farther from fp64 than the plain expression may be."""
    hidden, targets = hidden[:256], targets[:256]
    ends = torch.tensor([0, len(hidden)], device=hidden.device)
    found = token_losses(hidden, weight, targets, ends).double()
    exact = plain(hidden.double(), weight.double(), targets)
    naive = plain(hidden, weight, targets).double()
    limit = 2 * (naive - exact).abs().max() + 4 * exact.max() * 2.0**-23
    assert (found - exact).abs().max() <= limit, "sequence_loss is not near fp64"


def installed_rivals() -> dict[str, Work]:
    """The rivals that can be imported, by the name of their module: a loss for each token."""
    found: dict[str, Work] = {}
    if hasattr(functional, "linear_cross_entropy"):
        found["torch linear_cross_entropy"] = lambda h, w, y: functional.linear_cross_entropy(
            h, w, y, reduction="none"
        )
    missing = {each["implementation"] for each in not_installed(OP, torch.device("cuda"), RIVALS)}
    if "liger_kernel" not in missing:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        found["liger_kernel"] = lambda h, w, y: liger_fused_linear_cross_entropy(
            h, w, y, reduction="none"
        )
    if "cut_cross_entropy" not in missing:
        from cut_cross_entropy import linear_cross_entropy

        found["cut_cross_entropy"] = lambda h, w, y: linear_cross_entropy(h, w, y, reduction="none")
    if "quack" not in missing:
        from quack.linear_cross_entropy import linear_cross_entropy_func

        found["quack"] = lambda h, w, y: linear_cross_entropy_func(h, w, None, y, reduction="none")
    return found


def usable(rivals: dict[str, Work], inputs: tuple) -> tuple[dict[str, Work], list[dict]]:
    """Try each rival once: those that run, and a row for each that does not, with what it said."""
    kept, rows = {}, []
    for name, rival in rivals.items():
        try:
            with torch.no_grad():
                rival(*inputs[:3])
            kept[name] = rival
        except Exception as error:
            said = f"failed: {type(error).__name__}: {error}"[:300]
            rows.append({"op": OP, "implementation": name, "device": "cuda", "missing": said})
    return kept, rows


def shape_rows(device: torch.device, quick: bool, shape: tuple[int, int, int]) -> list[dict]:
    """Rows of one shape: ours, the rivals, the product alone."""
    tokens, width, vocabulary = shape
    inputs = make_inputs(device, *shape)
    check(*inputs[:3])
    some = rotated(inputs, device)
    rivals: dict[str, Work] = {"logits, then cross_entropy": plain}
    failed: list[dict] = []
    if device.type == "cuda":
        rivals["torch.compile"] = torch.compile(plain, dynamic=False)
        others, failed = usable(installed_rivals(), inputs)
        rivals |= others
    name = "ours" if device.type == "cuda" else "reference (no kernel on the CPU)"
    works: dict[str, Callable[[int], object]] = {
        name: lambda i: sequence_loss(*some[i % len(some)]),
        "product alone": lambda i: some[i % len(some)][0] @ some[i % len(some)][1].T,
    }
    for each, rival in rivals.items():
        works[each] = lambda i, rival=rival: rival(*some[i % len(some)][:3])
    with torch.no_grad():
        timings = interleaved(works, device, quick, budget_s=8.0)
    work = 2 * tokens * width * vocabulary / 1e12
    return failed + [
        row(OP, each, timing, device, tokens=tokens, width=width, vocabulary=vocabulary,
            dtype=str(inputs[0].dtype), tflops=work / timing.median_s,
            tokens_per_s=tokens / timing.median_s)
        for each, timing in timings.items()
    ]  # fmt: skip


def measure(device: torch.device, quick: bool) -> list[dict]:
    """Rows by shape; rivals that are not there are named."""
    torch.manual_seed(0)
    shapes = [(512, 256, 8192)]
    if device.type == "cuda":
        shapes = [(8192, 2048, 50304), (8192, 4096, 128256)]
    rows = [each for shape in shapes for each in shape_rows(device, quick, shape)]
    if device.type == "cuda" and not hasattr(functional, "linear_cross_entropy"):
        rows.append({
            "op": OP, "implementation": "torch linear_cross_entropy", "device": device.type,
            "missing": f"torch {torch.__version__} has none",
        })  # fmt: skip
    return rows + (not_installed(OP, device, RIVALS) if device.type == "cuda" else [])


if __name__ == "__main__":
    main(measure)
