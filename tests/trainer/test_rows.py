# SPDX-License-Identifier: Apache-2.0
"""Packing for measurements: every token once, in its document's order, and sums that find home."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from moot.trainer.rows import pack, predicted_tokens

LENGTHS = st.lists(st.integers(0, 40), max_size=12)


def make_documents(lengths):
    starts = np.cumsum([0, *lengths])[:-1]
    return [np.arange(a, a + n, dtype=np.uint16) for a, n in zip(starts, lengths, strict=True)]


def unpack(rows):
    """Read the pieces back out of the rows, by document."""
    found = {}
    pieces = rows.pieces
    for d, r, s, n in zip(pieces.document, pieces.row, pieces.start, pieces.length, strict=True):
        found.setdefault(int(d), []).append(rows.input_ids[r, s : s + n].numpy())
    return found


@given(LENGTHS, st.integers(2, 16))
def test_every_piece_stands_once_in_the_rows(lengths, row_tokens):
    documents = make_documents(lengths)
    rows = pack(documents, row_tokens)
    found = unpack(rows)
    for i, document in enumerate(documents):
        whole = [document[j : j + row_tokens] for j in range(0, len(document), row_tokens)]
        expected = sorted(p.tolist() for p in whole if len(p) > 1)
        assert sorted(p.tolist() for p in found.get(i, [])) == expected
    assert rows.input_ids.shape[1] <= row_tokens
    taken = np.zeros(rows.labels.shape, dtype=int)
    for r, s, n in zip(rows.pieces.row, rows.pieces.start, rows.pieces.length, strict=True):
        taken[r, s : s + n] += 1
        assert rows.position_ids[r, s : s + n].tolist() == list(range(n))
        assert rows.labels[r, s] == -100
        assert torch.equal(rows.labels[r, s + 1 : s + n], rows.input_ids[r, s + 1 : s + n])
    assert taken.max(initial=0) <= 1
    padding = torch.from_numpy(taken == 0)
    assert bool((rows.labels[padding] == -100).all())
    assert bool((rows.position_ids[padding] == 0).all())


@given(LENGTHS, st.integers(2, 16), st.integers(1, 40))
def test_sums_by_document_over_passes(lengths, row_tokens, max_tokens):
    documents = make_documents(lengths)
    rows = pack(documents, row_tokens)
    totals, predicted = np.zeros(len(documents)), np.zeros(len(documents))
    for part in rows.passes(max_tokens, "cpu"):
        part.add_document_sums(part.input_ids.double(), totals)
        part.add_document_sums((part.labels != -100).double(), predicted)
    dropped = [len(d) % row_tokens == 1 for d in documents]
    expected = [
        float(d[: len(d) - s].sum(dtype=np.int64)) for d, s in zip(documents, dropped, strict=True)
    ]
    assert totals.tolist() == expected
    lengths = np.array(lengths, dtype=np.int64)
    assert predicted.tolist() == predicted_tokens(lengths, row_tokens).tolist()
    assert rows.num_predicted == predicted.sum()


def test_short_documents_share_rows():
    rows = pack(make_documents([128] * 8), 256)
    assert rows.input_ids.shape == (8, 128)  # no waste, and attention half as wide
    rows = pack(make_documents([90] * 8), 256)
    assert rows.input_ids.shape == (8, 90)
    rows = pack(make_documents([100, 156, 60, 196, 256]), 256)
    assert rows.input_ids.shape == (3, 256)


def test_passes_keep_the_token_limit_and_drop_unused_columns():
    rows = pack(make_documents([16, 16, 16, 4]), 16)
    shapes = [tuple(part.input_ids.shape) for part in rows.passes(32, "cpu")]
    assert shapes == [(2, 16), (2, 16)]
    shapes = [tuple(part.input_ids.shape) for part in rows.passes(1, "cpu")]
    assert shapes == [(1, 16), (1, 16), (1, 16), (1, 4)]
