# SPDX-License-Identifier: Apache-2.0
"""What novelty reads and returns: the centroid bank, the nearest centroids.

Legend: K centroids, D dimensions, n vectors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..document_scores.tables import check_tensor

ELEMENT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class CentroidBank:
    """Centroids of what is known already, with their inverse lengths. `CentroidBank.of` makes one.

    Args:
        centroids: [K, D] float32, float16 or bfloat16; K and D at least 1.
        inverse_norms: [K] float32; 0 for a centroid of length 0, whose cosine is 0 with anything.

    Raises:
        ValueError: A shape, a dtype or a device that does not fit.
    """

    centroids: Tensor
    inverse_norms: Tensor

    def __post_init__(self) -> None:
        check_matrix("centroids", self.centroids)
        if not 1 <= len(self.centroids) < 1 << 30 or self.centroids.shape[1] < 1:
            raise ValueError(
                f"centroids is {list(self.centroids.shape)}; both must be at least 1, K below 2**30"
            )
        check_tensor("inverse_norms", self.inverse_norms, torch.float32, (len(self.centroids),))
        if self.inverse_norms.device != self.centroids.device:
            raise ValueError(
                f"inverse_norms lies on {self.inverse_norms.device}, centroids on "
                f"{self.centroids.device}; move them to one"
            )

    @classmethod
    def of(cls, centroids: Tensor) -> "CentroidBank":
        """Measure the centroids; they need not have length 1.

        Args:
            centroids: [K, D] float32, float16 or bfloat16, finite; kept, not copied.

        Raises:
            ValueError: A shape or dtype that does not fit, or a centroid that is not finite or
                whose squared length is not finite in fp32. Looks at the data.
        """
        check_matrix("centroids", centroids)
        # In parts, so that no fp64 copy of a large bank is made.
        squares = [part.double().square().sum(1) for part in centroids.split(1 << 14)]
        square = torch.cat(squares) if squares else centroids.new_zeros(0, dtype=torch.float64)
        wrong = (~torch.isfinite(square.float())).nonzero()
        if len(wrong):
            raise ValueError(
                f"centroid {int(wrong[0])} has no finite length in fp32; fit the bank again"
            )
        inverse = torch.where(square.float() > 0, square.rsqrt(), 0.0).float()
        return cls(centroids, inverse)

    def to(self, device: torch.device | str) -> "CentroidBank":
        """Copy the bank to a device (no copy where it is there already)."""
        return CentroidBank(self.centroids.to(device), self.inverse_norms.to(device))


@dataclass(frozen=True)
class Novelty:
    """The result of novelty, new tensors on the device of the vectors.

    Args:
        similarity: [n] float32, the largest cosine of a vector with any centroid.
        nearest: [n] int32, the centroid that has it, the first one on a tie.
    """

    similarity: Tensor
    nearest: Tensor


def check_matrix(name: str, value: object) -> None:
    """Raise ValueError unless value is a contiguous matrix of a dtype that novelty reads."""
    if not isinstance(value, Tensor) or value.dtype not in ELEMENT_DTYPES:
        have = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} is {have}; pass a float32, float16 or bfloat16 tensor")
    check_tensor(name, value, value.dtype, (None, None))
