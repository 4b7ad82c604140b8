# SPDX-License-Identifier: Apache-2.0
"""From any format that is read to MDS or Parquet: parallel, resumable, verified; and indexes."""

from .config import ConvertConfig
from .indexing import Indexed, index_corpus, store_labels
from .run import Converted, convert

__all__ = ["ConvertConfig", "Converted", "Indexed", "convert", "index_corpus", "store_labels"]
