# SPDX-License-Identifier: Apache-2.0
"""The tokenizer: byte-level BPE learnt from a sample, and documents turned into token arrays.

Byte-level, so every text can be encoded and decoded again without loss. Each document's tokens end
with END_OF_DOCUMENT; the same characters inside a text are encoded as ordinary text.
The same texts give the same tokenizer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...loader.errors import ConfigError
from .documents import Document, num_bytes, seeded_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_DOCUMENT = "<|endofdoc|>"
SAMPLE_BYTES = 8_000_000
# What the library keeps beside each token is a hundred times its two bytes.
_BATCH_BYTES = 4_000_000


def train_tokenizer(documents: Sequence[Document], vocab_size: int, seed: int) -> "Tokenizer":
    """Learn a tokenizer from a seeded sample of at most SAMPLE_BYTES."""
    tokenizers = import_tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        # All 256 bytes, in a fixed order, whatever the sample holds.
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(documents, seed), trainer)
    return tokenizer


def encode_documents(
    tokenizer: "Tokenizer",
    documents: Sequence[Document],
    report: Callable[[int], None] = lambda done: None,
) -> list[npt.NDArray[np.uint16]]:
    """Encode documents in batches on all cores.

    Args:
        tokenizer: of at most 65,536 tokens.
        documents: in the order of the result.
        report: called with the number of documents done.

    Returns:
        One uint16 array a document, END_OF_DOCUMENT last.
    """
    end = end_of_document(tokenizer)
    tokenizer.encode_special_tokens = True
    arrays = []
    for batch in _batches(documents):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            arrays.append(np.array([*encoding.ids, end], dtype=np.uint16))
        report(len(arrays))
    return arrays


def end_of_document(tokenizer: "Tokenizer") -> int:
    """Return the id of END_OF_DOCUMENT."""
    return int(tokenizer.token_to_id(END_OF_DOCUMENT))


def import_tokenizers() -> Any:
    """Import the tokenizers library, or say how to install it."""
    try:
        import tokenizers
    except ImportError:
        raise ConfigError(
            "building a corpus needs the tokenizers library: pip install 'moot[train]'"
        ) from None
    return tokenizers


def _batches(documents: Sequence[Document]) -> Iterator[list[str]]:
    """Texts in lists of about _BATCH_BYTES."""
    batch: list[str] = []
    left = _BATCH_BYTES
    for document in documents:
        batch.append(document.text)
        left -= len(document.text)
        if left <= 0:
            yield batch
            batch, left = [], _BATCH_BYTES
    if batch:
        yield batch


def _sample(documents: Sequence[Document], seed: int) -> list[str]:
    """Texts in seeded order until the sample is full."""
    texts = []
    left = SAMPLE_BYTES
    for document in sorted(documents, key=lambda one: seeded_hash("sample/" + one.id, seed)):
        if (left := left - num_bytes(document.text)) < 0:
            break
        texts.append(document.text)
    return texts or [document.text[:SAMPLE_BYTES] for document in documents[:1]]
