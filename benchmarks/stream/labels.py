# SPDX-License-Identifier: Apache-2.0
"""Labels beside a corpus: two columns of sixteen states, one by shard and one by sample.

`cluster` is equal within a shard, so a predicate on it wants whole shards or none; `scatter` is
drawn for each sample. "cluster < 4" and "scatter < 4" want a quarter each.

Run under our Python: python -m stream.labels JSON
"""

import json
import sys
from contextlib import closing

import numpy as np

STATES = 16
NAMES = ("cluster", "scatter")


def states_of(samples_per_shard):
    """Return both columns of all samples, shard after shard: uint8 [n] each."""
    shard = np.repeat(np.arange(len(samples_per_shard)), samples_per_shard)
    drawn = np.random.default_rng(20261130).integers(0, STATES, len(shard), np.uint8)
    return {"cluster": (shard % STATES).astype(np.uint8), "scatter": drawn}


def main(ask):
    """Write labels.parquet beside a corpus, and the index of one that has none."""
    from moot.loader import open_corpus
    from moot.loader.convert import index_corpus
    from moot.loader.corpus import LabelPlan, write_labels

    if ask["form"] == "parquet":
        index_corpus(ask["folder"], "parquet", {})
    with closing(open_corpus(ask["folder"])) as corpus:
        states, first = states_of(corpus.samples_per_shard), corpus.first_sample

        def label(shard):
            span = slice(*first[shard.info.shard_id : shard.info.shard_id + 2])
            return {name: states[name][span] for name in NAMES}

        write_labels(corpus, LabelPlan(label=label))
    return {}


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(sys.argv[1]))), flush=True)
