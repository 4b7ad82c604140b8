# SPDX-License-Identifier: Apache-2.0
"""The ops: tensors in, tensors out; each with its plain-torch reference, native routine and kernel.

Whether an op's implementations agree in every bit or within a tolerance says its page in docs/ops;
each of them gives the same bits every time, whatever stands beside a document. Importing this
package imports neither triton nor the native module: both are loaded by the first call that needs
them.
"""

from .document_scores import AgentTables, DocumentScores, NgramModel, document_scores
from .gather_documents import PackedDocuments, gather_documents
from .gradient_sketch import gradient_sketch, sketch_projection
from .ngram_log_ratio import LogRatioTable, log_ratio_table, ngram_counts, ngram_log_ratio
from .novelty import CentroidBank, Novelty, novelty
from .select import Quotas, Selection, select

__all__ = [
    "AgentTables",
    "CentroidBank",
    "DocumentScores",
    "LogRatioTable",
    "NgramModel",
    "Novelty",
    "PackedDocuments",
    "Quotas",
    "Selection",
    "document_scores",
    "gather_documents",
    "gradient_sketch",
    "log_ratio_table",
    "ngram_counts",
    "ngram_log_ratio",
    "novelty",
    "select",
    "sketch_projection",
]
