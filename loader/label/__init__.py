# SPDX-License-Identifier: Apache-2.0
"""Offline fitting: the topics of a corpus and what its reference set is like, as inline agents.

| file | holds |
|---|---|
| `fit.py` | a corpus in a bucket -> agents and report beside it |
| `label.py` | fitted agents -> labels stored beside the shards |
| `model.py` | pieces in memory -> the fitted n-gram model; a pure function |
| `config.py` | `FitConfig` |
| `pieces.py` | the seeded sample of candidates |
| `splits.py` | what is fitted on, stopped by, held out |
| `features.py` | hashed n-gram counts, tf-idf |
| `topics.py` | k-means |
| `quality.py` | reference against corpus and shuffled text, as a target |
| `heads.py` | a float table and heads, trained on a target |
| `quantize.py` | floats to the integers of `document_scores` |
| `measure.py`, `ngrams.py`, `report.py` | what came out, in figures and words |
"""

from .config import FitConfig
from .fit import fit
from .label import label_corpus
from .report import report_table

__all__ = ["FitConfig", "fit", "label_corpus", "report_table"]
