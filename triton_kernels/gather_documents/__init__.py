# SPDX-License-Identifier: Apache-2.0
"""gather_documents: chosen documents of ragged tokens become slots of one length.

Native C++ on the CPU, two Triton kernels on CUDA, plain torch as the specification; all give the
same integers. Mathematics and cost: docs/ops/gather_documents.md.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..document_scores.tables import check_tensor
from ..registry import register
from .packing import MAX_TOKENS, TOKEN_DTYPES, Chosen, Layout, PackedDocuments, new_outputs

__all__ = ["PackedDocuments", "gather_documents"]

Overflow = Literal["cut", "drop"]


def gather_documents(
    tokens: Tensor,
    cu_seqlens: Tensor,
    indices: Tensor,
    num_chosen: Tensor | None = None,
    *,
    capacity_tokens: int,
    documents_per_slot: int = 0,
    row_tokens: int | None = None,
    pad: int = 0,
    overflow: Overflow = "cut",
    dtype: torch.dtype | None = None,
    position_ids: bool = False,
    implementation: Implementation = "auto",
) -> PackedDocuments:
    """Copy each slot's chosen documents one after the other, pad the rest.

    Which documents, and how many, may be known on the device alone: shapes follow from the
    arguments' shapes, and nothing is read back.

    Args:
        tokens: [T] uint16, int32 or int64.
        cu_seqlens: [n+1] int64, not descending, within [0, T]; document i is
            tokens[cu_seqlens[i]:cu_seqlens[i+1]].
        indices: [S, K] int32, a slot's documents in the order of placing; negative: nothing. As
            `select` gives them: `order` of [S, C] candidates, with documents_per_slot=C.
        num_chosen: [S] int32, how many entries of a slot count, from its first; what lies behind
            may hold anything. None: all K. Values outside [0, K] count as 0 or K.
        capacity_tokens: Tokens of a slot, at least 0, below 2**31.
        documents_per_slot: Entry i of slot s names document s * documents_per_slot + i. 0: the
            slots share one numbering.
        row_tokens: Tokens of a row: a slot is capacity_tokens / row_tokens whole rows, documents
            run on over their ends, positions restart there. None: a slot is one row.
        pad: The token behind the last document; `dtype` must hold it.
        overflow: What becomes of the first document that does not fit whole: "cut" keeps what
            fits of it, "drop" leaves it out. What follows it is left out either way.
        dtype: Of the packed tokens: int32 or int64 where it is wider than the tokens'. None: the
            tokens' own.
        position_ids: Whether to make them.
        implementation: As in document_scores.

    Returns:
        PackedDocuments of new tensors on the device of the tokens.

    Raises:
        ValueError: A shape, dtype, device or setting that does not fit; on the CPU also offsets
            or indices out of range. On CUDA contents are not looked at; there an index out of
            range stands for nothing, and offsets are trusted.

    Source: docs/ops/gather_documents.md.
    """
    chosen = Chosen(tokens, cu_seqlens, indices, num_chosen, documents_per_slot)
    _check(chosen)
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow is {overflow!r}; choose 'cut' or 'drop'")
    layout = Layout(
        capacity_tokens=capacity_tokens,
        row_tokens=max(capacity_tokens, 1) if row_tokens is None else row_tokens,
        pad=pad,
        is_cut=overflow == "cut",
        dtype=tokens.dtype if dtype is None else dtype,
        has_positions=position_ids,
    )
    _check_layout(layout, tokens.dtype)
    name = choose(implementation, tokens.device)
    if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_contents(chosen)
        if name == "native":  # going through the op takes a tenth as long as the copying
            from .native import gather_documents_native

            packed, cu, positions = gather_documents_native(chosen, layout)
            return PackedDocuments(packed, cu, positions if position_ids else None)
    packed, cu, positions = _OP(
        tokens, cu_seqlens, indices, num_chosen, documents_per_slot, capacity_tokens,
        layout.row_tokens, pad, layout.is_cut, layout.dtype, position_ids, implementation,
    )  # fmt: skip
    return PackedDocuments(packed, cu, positions if position_ids else None)


def _arguments(*values: Any) -> tuple[Chosen, Layout]:
    """Sort the registered op's flat arguments."""
    capacity, row_tokens, pad, is_cut, dtype, has_positions = values[5:]
    layout = Layout(capacity, row_tokens, pad, is_cut, dtype, has_positions)
    return Chosen(*values[:5]), layout


def _run(*values: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Pack by the implementation that is named last."""
    chosen, layout = _arguments(*values[:-1])
    name = choose(str(values[-1]), chosen.tokens.device)
    if name == "reference":
        from .reference import gather_documents_reference as run
    elif name == "native":
        from .native import gather_documents_native as run
    else:
        from .kernel import gather_documents_fwd as run
    return run(chosen, layout)


def _fake(*values: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Empty results."""
    return new_outputs(*_arguments(*values[:-1]))


_OP = register(
    "gather_documents(Tensor tokens, Tensor cu_seqlens, Tensor indices, Tensor? num_chosen, "
    "int documents_per_slot, int capacity_tokens, int row_tokens, int pad, bool is_cut, "
    "ScalarType dtype, bool has_positions, str implementation) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _check(chosen: Chosen) -> None:
    """Raise ValueError for tensors that do not fit."""
    tokens = chosen.tokens
    if not isinstance(tokens, Tensor) or tokens.dtype not in TOKEN_DTYPES:
        have = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens are {have}; they must be a uint16, int32 or int64 tensor")
    check_tensor("tokens", tokens, tokens.dtype, (None,))
    check_tensor("cu_seqlens", chosen.cu_seqlens, torch.int64, (None,))
    if len(chosen.cu_seqlens) < 1:
        raise ValueError("cu_seqlens is empty; it has one entry more than there are documents")
    check_tensor("indices", chosen.indices, torch.int32, (None, None))
    if chosen.num_chosen is not None:
        check_tensor("num_chosen", chosen.num_chosen, torch.int32, (len(chosen.indices),))
    if not 0 <= chosen.documents_per_slot <= MAX_TOKENS:
        raise ValueError(f"documents_per_slot is {chosen.documents_per_slot}; it is 0 or a count")
    for name in ("cu_seqlens", "indices", "num_chosen"):
        value = getattr(chosen, name)
        if value is not None and value.device != tokens.device:
            raise ValueError(
                f"{name} lies on {value.device}, tokens on {tokens.device}; move them to one"
            )


def _check_layout(layout: Layout, stored: torch.dtype) -> None:
    """Raise ValueError for settings that do not fit."""
    size = layout.capacity_tokens
    if not 0 <= size <= MAX_TOKENS:
        raise ValueError(f"capacity_tokens is {size}; it must be in [0, 2**31)")
    if layout.row_tokens < 1 or size % layout.row_tokens:
        raise ValueError(
            f"row_tokens is {layout.row_tokens}; it must divide capacity_tokens, {size}"
        )
    if layout.dtype not in TOKEN_DTYPES or layout.dtype.itemsize < stored.itemsize:
        raise ValueError(
            f"dtype is {layout.dtype}; tokens of {stored} can stay as they are or become a wider "
            "one of torch.int32 and torch.int64"
        )
    limits = torch.iinfo(layout.dtype)
    if not limits.min <= layout.pad <= limits.max:
        raise ValueError(f"pad is {layout.pad}; {layout.dtype} does not hold it")


def _check_contents(chosen: Chosen) -> None:
    """Raise ValueError for offsets or indices out of range; looks at the data."""
    cu, num_tokens = chosen.cu_seqlens, len(chosen.tokens)
    if bool((cu[1:] < cu[:-1]).any()) or cu[0] < 0 or cu[-1] > num_tokens:
        raise ValueError(
            f"cu_seqlens must not descend and must lie within [0, {num_tokens}], the tokens; it "
            f"runs from {int(cu[0])} to {int(cu[-1])}"
        )
    num_slots, most = chosen.indices.shape
    limit, stride = len(cu) - 1, chosen.documents_per_slot
    if stride:
        if stride * num_slots > limit:
            raise ValueError(f"{num_slots} slots of {stride} documents: cu_seqlens has {limit}")
        limit = stride
    if not chosen.indices.numel() or int(chosen.indices.max()) < limit:
        return
    wrong = chosen.indices >= limit
    if chosen.num_chosen is not None:
        wrong &= torch.arange(most) < chosen.num_chosen[:, None]
    if bool(wrong.any()):
        slot, entry = (int(place) for place in wrong.nonzero()[0])
        raise ValueError(
            f"indices[{slot}, {entry}] is {int(chosen.indices[slot, entry])}; there are {limit} "
            "documents to name"
        )
