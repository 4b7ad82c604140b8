# SPDX-License-Identifier: Apache-2.0
"""The ops: tensors in, tensors out; each with its plain-torch reference, native routine and kernel.

Every implementation of an op returns the same bits (docs/ops). Importing this package imports
neither triton nor the native module: both are loaded by the first call that needs them.
"""

from .document_scores import AgentTables, DocumentScores, NgramModel, document_scores
from .gather_documents import PackedDocuments, gather_documents
from .select import Quotas, Selection, select

__all__ = [
    "AgentTables",
    "DocumentScores",
    "NgramModel",
    "PackedDocuments",
    "Quotas",
    "Selection",
    "document_scores",
    "gather_documents",
    "select",
]
