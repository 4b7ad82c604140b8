"""Native routines of moot.triton_kernels"""

from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


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

    def __init__(self, seed: int, temperature: float, max_count: int, budget_tokens: int) -> None: ...

def select(candidates: Candidates, rule: SelectRule, order: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], num_kept: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')], scores: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], start: int, stop: int) -> None:
    """
    Order and keep the candidates of rows [start, stop), without the GIL, in this thread.
    """
