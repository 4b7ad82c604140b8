# SPDX-License-Identifier: Apache-2.0
"""What was delivered against what the corpus holds: no sample lost, doubled or changed.

Samples of one length: a 64-bit fingerprint of each row, and the sum of them over a pass, which no
order changes. Documents: their number stands behind MARK at their head; every document that lies
whole inside a row is compared by fingerprint with the corpus's. A head that is cut by the end of a
row is counted, and as many documents may then be unseen, but no more.
"""

from pathlib import Path

import numpy as np

from .corpora import ID_BASE, MARK, SEQ_LEN, Samples

_rng = np.random.default_rng(0)
_WORD_WEIGHTS = _rng.integers(0, 1 << 63, SEQ_LEN // 4, dtype=np.uint64) * 2 + 1
_TOKEN_WEIGHTS = _rng.integers(0, 1 << 63, 1 << 17, dtype=np.uint64) * 2 + 1


def fingerprints(rows):
    """Return uint64 [n] of uint16 [n, 2048]."""
    words = np.ascontiguousarray(rows).view(np.uint64) * _WORD_WEIGHTS
    return _mixed(words.sum(axis=1, dtype=np.uint64))


class Seen:
    """What a reader delivered, batch by batch; `verdict` holds it against the corpus."""

    def __init__(self, place):
        self._samples = Samples(Path(place["served"]) / place["corpus"])
        self._is_packed = place["is_packed"]
        self._rows = 0
        self._sum = np.uint64(0)
        self._times = np.zeros(len(self._samples), np.int64)
        self._whole = self._wrong = self._cut = 0
        if self._is_packed:
            self._expected = _segment_prints(self._samples.tokens, self._samples.starts)

    def add(self, batch):
        """Take uint16 [n, 2048]."""
        self._rows += len(batch)
        if not self._is_packed:
            self._sum += fingerprints(batch).sum(dtype=np.uint64)
            return
        for row in batch:
            heads = np.flatnonzero(row[:-2] == MARK)
            self._cut += int((row[-2:] == MARK).any())
            ids = row[heads + 1].astype(np.int64) * ID_BASE + row[heads + 2]
            np.add.at(self._times, ids, 1)
            got = _segment_prints(row, heads)  # the last one may go on elsewhere
            self._whole += len(got)
            self._wrong += int((got != self._expected[ids[: len(got)]]).sum())

    def verdict(self, *, goes_on):
        """Return whether the pass was whole, and the counts that say so.

        Args:
            goes_on: The reader has no epochs and was read a little beyond a pass, so that a few
                documents of the next one have come.
        """
        if not self._is_packed:
            expected = np.uint64(0)
            for first in range(0, len(self._samples), 8192):
                span = self._samples.tokens[first * SEQ_LEN : (first + 8192) * SEQ_LEN]
                expected += fingerprints(span.reshape(-1, SEQ_LEN)).sum(dtype=np.uint64)
            is_whole = self._rows == len(self._samples) and self._sum == expected
            return {
                "is_whole": bool(is_whole),
                "rows": self._rows,
                "rows_of_corpus": len(self._samples),
                "checksum": f"{int(self._sum):016x}",
                "checksum_of_corpus": f"{int(expected):016x}",
            }
        unseen, twice = int((self._times == 0).sum()), int((self._times > 1).sum())
        is_whole = not self._wrong and unseen <= self._cut and self._times.max() <= 2
        return {
            "is_whole": bool(is_whole and (goes_on or not twice)),
            "documents_seen": len(self._samples) - unseen,
            "documents_of_corpus": len(self._samples),
            "documents_with_cut_heads": self._cut,
            "documents_of_next_pass" if goes_on else "documents_twice": twice,
            "documents_compared": self._whole,
            "documents_wrong": self._wrong,
        }


def _segment_prints(tokens, starts):
    """Return uint64 [len(starts) - 1], the fingerprint of each run between two starts."""
    if len(starts) < 2:
        return np.zeros(0, np.uint64)
    prints = []
    for first in range(0, len(starts) - 1, 4096):
        cuts = np.asarray(starts[first : first + 4097])
        place = np.arange(cuts[-1] - cuts[0]) - np.repeat(cuts[:-1] - cuts[0], np.diff(cuts))
        words = tokens[cuts[0] : cuts[-1]].astype(np.uint64) * _TOKEN_WEIGHTS[place]
        prints.append(np.add.reduceat(words, cuts[:-1] - cuts[0]))
    return _mixed(np.concatenate(prints))


def _mixed(values):
    """Spread every bit over the word, so that sums of fingerprints do not cancel."""
    values = (values ^ (values >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return values ^ (values >> np.uint64(29))
