# SPDX-License-Identifier: Apache-2.0
"""How near to a plain copy is the packing of chosen documents?

    python benchmarks/bench_gather_documents.py [--device cuda] [--quick] [--out FILE.jsonl]

Documents of 1 to 2,000 tokens as uint16, one in four chosen at random, packed into slots as they
are and as int64. The floor copies as many bytes as the packing reads and writes, into memory that
is there already; on the CPU the native routine is timed alone against it, and the whole call, which
takes new memory, against a copy or a conversion into new memory. The rival takes one
torch.index_select over an index that is made beforehand, so its own index is not counted. Equality
with the reference is the gate.
"""

import torch
from moot.triton_kernels import gather_documents
from ops import interleaved, main, rotated, row

OP = "gather_documents"
SLOTS = 8


def make_inputs(device: torch.device, quick: bool) -> tuple:
    """Tokens, offsets, chosen documents and their number, and the tokens of a slot."""
    generator = torch.Generator().manual_seed(0)
    per_slot = 1000 if quick else 4000
    lengths = torch.randint(1, 2000, (SLOTS * per_slot,), generator=generator)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.randint(0, 1 << 16, (int(cu_seqlens[-1]),), generator=generator)
    order = [torch.randperm(per_slot, generator=generator) for _ in range(SLOTS)]
    indices = torch.stack(order).to(torch.int32)
    count = torch.full((SLOTS,), per_slot // 4, dtype=torch.int32)
    capacity = per_slot // 4 * 1000 // 4096 * 4096
    values = (tokens.to(torch.uint16), cu_seqlens, indices, count)
    return *(value.to(device) for value in values), capacity


def pack(inputs: tuple, dtype: torch.dtype | None = None, implementation: str = "auto") -> tuple:
    """Call the op."""
    *tensors, capacity = inputs
    packed = gather_documents(
        *tensors, capacity_tokens=capacity, documents_per_slot=tensors[2].shape[1], dtype=dtype,
        implementation=implementation,
    )  # fmt: skip
    return packed.tokens, packed.cu_seqlens


def check(inputs: tuple) -> None:
    """Raise where the result is not the reference's."""
    for dtype in (None, torch.int64):
        wanted = pack(inputs, dtype, "reference")
        for left, right in zip(pack(inputs, dtype), wanted, strict=True):
            assert torch.equal(left.long(), right.long())


def make_rival(inputs: tuple) -> tuple:
    """Index of every packed token and the tokens as int16, which torch can select from."""
    numbered = torch.arange(len(inputs[0]), device=inputs[0].device)
    index = pack((numbered, *inputs[1:]))[0].flatten()
    return inputs[0].view(torch.int16), index


def measure(device: torch.device, quick: bool) -> list[dict]:
    """Rows of both packings, the rival and the floor."""
    inputs = make_inputs(device, quick)
    check(inputs)
    some = rotated(inputs, device)
    rivals = rotated(make_rival(inputs), device)
    num = SLOTS * inputs[-1]
    source = torch.randint(0, 1 << 15, (5 * num,), device=device).to(torch.int16)
    target = torch.empty_like(source)
    works = {
        "ours, uint16": (4, lambda i: pack(some[i % len(some)])),
        "copy of as many bytes, uint16": (4, lambda i: target[:num].copy_(source[:num])),
        "index_select, uint16": (4, lambda i: torch.index_select(*_swap(rivals[i % len(rivals)]))),
        "ours, int64": (10, lambda i: pack(some[i % len(some)], torch.int64)),
        "copy of as many bytes, int64": (
            10, lambda i: target[: 5 * num // 2].copy_(source[: 5 * num // 2])
        ),
    }  # fmt: skip
    if device.type == "cpu":
        works |= {
            "native routine alone, uint16": (4, native_alone(inputs, torch.uint16)),
            "native routine alone, int64": (10, native_alone(inputs, torch.int64)),
            "copy into new memory, uint16": (4, lambda i: source[:num].clone()),
            "torch's conversion into new memory, int64": (
                10, lambda i: source[:num].to(torch.int64)
            ),
        }
    timings = interleaved({name: work for name, (_, work) in works.items()}, device, quick)
    return [
        row(
            OP, name, timing, device, slots=SLOTS, tokens=num, bytes_a_token=works[name][0],
            documents=int(inputs[3].sum()), tokens_per_s=num / timing.median_s,
            gigabytes_per_s=works[name][0] * num / timing.median_s / 1e9,
        )
        for name, timing in timings.items()
    ]  # fmt: skip


def native_alone(inputs: tuple, dtype: torch.dtype):
    """The native routine with views and outputs made beforehand."""
    from moot.triton_kernels import _native

    tokens, cu_seqlens, indices, count, capacity = inputs
    chosen = _native.ChosenDocuments(
        cu_seqlens.numpy(), indices.numpy(), count.numpy(), indices.shape[1]
    )
    rule = _native.PackRule(capacity, 0, True)
    out = torch.zeros(SLOTS, capacity, dtype=dtype)
    borders = torch.zeros(SLOTS, indices.shape[1] + 1, dtype=torch.int32)
    views = (out.numpy(), borders.numpy(), torch.zeros(SLOTS, 0, dtype=torch.int64).numpy())
    return lambda i: _native.gather_documents(tokens.numpy(), chosen, rule, *views, 0, SLOTS)


def _swap(rival: tuple) -> tuple:
    return rival[0], 0, rival[1]


if __name__ == "__main__":
    main(measure)
