"""Native routines of moot.triton_kernels"""

from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


class ChosenDocuments:
    """Views of what says which documents are wanted."""

    def __init__(self, cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], indices: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], num_chosen: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, documents_per_slot: int) -> None: ...

class PackRule:
    """How documents become slots."""

    def __init__(self, row_tokens: int, pad: int, is_cut: bool) -> None: ...

@overload
def gather_documents(tokens: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], chosen: ChosenDocuments, rule: PackRule, packed: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')], cu_seqlens: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], positions: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def gather_documents(tokens: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], chosen: ChosenDocuments, rule: PackRule, packed: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], cu_seqlens: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], positions: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def gather_documents(tokens: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], chosen: ChosenDocuments, rule: PackRule, packed: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], cu_seqlens: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], positions: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def gather_documents(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], chosen: ChosenDocuments, rule: PackRule, packed: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], cu_seqlens: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], positions: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def gather_documents(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], chosen: ChosenDocuments, rule: PackRule, packed: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], cu_seqlens: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], positions: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def gather_documents(tokens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], chosen: ChosenDocuments, rule: PackRule, packed: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], cu_seqlens: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], positions: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None:
    """
    Pack the documents of slots [start, stop), without the GIL, in this thread.
    """

@overload
def ngram_log_ratio(tokens: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], table: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int, out: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def ngram_log_ratio(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], table: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int, out: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def ngram_log_ratio(tokens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], table: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int, out: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int) -> None:
    """
    Sum the table over the n-grams of documents [start, stop), without the GIL.
    """

@overload
def count_ngrams(tokens: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int, counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def count_ngrams(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int, counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int) -> None: ...

@overload
def count_ngrams(tokens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int, counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int) -> None:
    """Add the n-grams of documents [start, stop) to counts, without the GIL."""

def novelty_fp32(vectors: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], centroids: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], inverse_norms: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], similarity: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], nearest: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int, may_be_wide: bool = True) -> None:
    """
    Find the nearest centroid of vectors [start, stop), without the GIL, in this thread.
    """

def novelty_fp16(vectors: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], centroids: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], inverse_norms: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], similarity: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], nearest: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int, may_be_wide: bool = True) -> None:
    """
    Find the nearest centroid of vectors [start, stop), without the GIL, in this thread.
    """

def novelty_bf16(vectors: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], centroids: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], inverse_norms: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], similarity: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], nearest: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')], start: int, stop: int, may_be_wide: bool = True) -> None:
    """
    Find the nearest centroid of vectors [start, stop), without the GIL, in this thread.
    """

class NgramModel:
    """Views of a model's arrays; orders is a set of bits."""

    def __init__(self, table: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], heads: Annotated[NDArray[numpy.int16], dict(shape=(None, None), order='C', device='cpu', writable=False)], bias: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], orders: int) -> None: ...

class AgentTables:
    """Views of the agents' arrays."""

    def __init__(self, kind: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], first_head: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], num_states: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], edges: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], memory: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], theta: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

class ScoreOutput:
    """Views of the arrays that results are written to."""

    def __init__(self, values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], states: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], votes: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], total: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

@overload
def document_scores(tokens: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], model: NgramModel, agents: AgentTables, stored_states: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, out: ScoreOutput, start: int, stop: int) -> None: ...

@overload
def document_scores(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], model: NgramModel, agents: AgentTables, stored_states: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, out: ScoreOutput, start: int, stop: int) -> None: ...

@overload
def document_scores(tokens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], cu_seqlens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], model: NgramModel, agents: AgentTables, stored_states: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, out: ScoreOutput, start: int, stop: int) -> None:
    """
    Score documents [start, stop) into out, without the GIL, in this thread.
    """

class Candidates:
    """Views of the candidates' arrays."""

    def __init__(self, votes: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], theta: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], lengths: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], ids: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu', writable=False)], shift: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

class SelectRule:
    """How candidates are drawn; limits are >= 0."""

    def __init__(self, seed: int, temperature: float, max_count: int, budget_tokens: int, is_full: bool) -> None: ...

class GroupQuotas:
    """Views of what a row's groups may take at most."""

    def __init__(self, groups: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], max_count: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, budget_tokens: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None) -> None: ...

def select(candidates: Candidates, quotas: GroupQuotas | None, rule: SelectRule, order: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], num_kept: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')], scores: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None:
    """
    Order and keep the candidates of rows [start, stop), without the GIL, in this thread.
    """
