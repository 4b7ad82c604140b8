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
from .head_influence import HeadInfluence, head_influence
from .ngram_log_ratio import LogRatioTable, log_ratio_table, ngram_counts, ngram_log_ratio
from .novelty import CentroidBank, Novelty, novelty
from .select import Quotas, Selection, select
from .sequence_loss import sequence_loss, token_losses

__all__ = [
    "AgentTables",
    "CentroidBank",
    "DocumentScores",
    "HeadInfluence",
    "LogRatioTable",
    "NgramModel",
    "Novelty",
    "PackedDocuments",
    "Quotas",
    "Selection",
    "document_scores",
    "gather_documents",
    "gradient_sketch",
    "head_influence",
    "log_ratio_table",
    "ngram_counts",
    "ngram_log_ratio",
    "novelty",
    "select",
    "sequence_loss",
    "sketch_projection",
    "token_losses",
]
