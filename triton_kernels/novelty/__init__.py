# SPDX-License-Identifier: Apache-2.0
"""novelty: how close each document's vector comes to anything in a bank of centroids.

Native C++ on the CPU, a streamed matrix product in Triton on CUDA, plain torch as the
specification. Mathematics and cost: docs/ops/novelty.md.
"""

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..registry import register
from .bank import CentroidBank, Novelty, check_matrix
from .reference import novelty_reference

__all__ = ["CentroidBank", "Novelty", "novelty"]


def novelty(
    vectors: Tensor, bank: CentroidBank, *, implementation: Implementation = "auto"
) -> Novelty:
    """Find the largest cosine of each vector with any centroid, and whose it is.

    The n x K matrix of cosines is never formed (the reference forms it). The bits of a vector's
    result do not depend on the other vectors. 1 - similarity is a distance: a document far from
    every centroid is new. To split the work over threads, pass slices of the vectors: the native
    routine releases the GIL and runs in the calling thread.

    Args:
        vectors: [n, D] of the bank's dtype, any lengths.
        bank: `CentroidBank.of(centroids)`, on the device of the vectors.
        implementation: As in document_scores.

    Returns:
        Novelty of new tensors; dots are summed in fp32, so a cosine may pass 1 by its rounding. A
        vector of length 0 has similarity 0. A vector that is not finite, or whose squared length is
        not finite in fp32, gets NaN and any centroid.

    Raises:
        ValueError: A shape, dtype or device that does not fit.

    Source: docs/ops/novelty.md.
    """
    check_matrix("vectors", vectors)
    if not isinstance(bank, CentroidBank):
        raise ValueError(f"bank is a {type(bank).__name__}; make it with CentroidBank.of")
    if vectors.dtype != bank.centroids.dtype or vectors.shape[1] != bank.centroids.shape[1]:
        raise ValueError(
            f"vectors is {vectors.dtype} {list(vectors.shape)}, the centroids are "
            f"{bank.centroids.dtype} {list(bank.centroids.shape)}; dtype and columns must be equal"
        )
    if vectors.device != bank.centroids.device:
        raise ValueError(
            f"bank lies on {bank.centroids.device}, vectors on {vectors.device}; move them to one"
        )
    choose(implementation, vectors.device)
    return Novelty(*_OP(vectors, bank.centroids, bank.inverse_norms, implementation))


def _run(
    vectors: Tensor, centroids: Tensor, inverse_norms: Tensor, implementation: str
) -> tuple[Tensor, Tensor]:
    """Compare by the implementation that is named last."""
    chosen = choose(implementation, vectors.device)
    if chosen == "reference":
        return novelty_reference(vectors, centroids, inverse_norms)
    if chosen == "native":
        from .native import novelty_native as run
    else:
        from .kernel import novelty_fwd as run
    return run(vectors, centroids, inverse_norms)


def _fake(
    vectors: Tensor, centroids: Tensor, inverse_norms: Tensor, implementation: str
) -> tuple[Tensor, Tensor]:
    """Empty results."""
    num_vectors = vectors.shape[0]
    similarity = vectors.new_empty(num_vectors, dtype=torch.float32)
    return similarity, vectors.new_empty(num_vectors, dtype=torch.int32)


_OP = register(
    "novelty(Tensor vectors, Tensor centroids, Tensor inverse_norms, str implementation) "
    "-> (Tensor, Tensor)",
    _run,
    _fake,
)
