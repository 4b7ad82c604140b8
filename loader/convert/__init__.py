# SPDX-License-Identifier: Apache-2.0
"""From any format that is read to MDS or Parquet: parallel, resumable, verified."""

from .config import ConvertConfig
from .run import Converted, convert

__all__ = ["ConvertConfig", "Converted", "convert"]
