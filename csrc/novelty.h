// SPDX-License-Identifier: Apache-2.0
// novelty on the CPU: the nearest centroid of each vector (docs/ops/novelty.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moot {

struct Half {
  std::uint16_t bits;  ///< IEEE binary16
};

struct Brain {
  std::uint16_t bits;  ///< bfloat16, the upper half of an fp32
};

/// A view of a bank; all memory belongs to the caller. Element is float, Half or Brain.
template <class Element>
struct CentroidBank {
  const Element* centroids;              ///< [num_centroids, dim], num_centroids in [1, 2^31)
  std::span<const float> inverse_norms;  ///< [num_centroids]; 0 for a centroid of length 0
  std::size_t dim;                       ///< at least 1
};

/// Where results go.
struct NoveltyOutput {
  float* similarity;      ///< [n] largest cosine
  std::int32_t* nearest;  ///< [n] the centroid that has it, the first on a tie
};

/// Find the nearest centroid of vectors [start, stop) of a [n, dim] batch.
///
/// Products and sums are fp32; the results of a vector do not depend on the others. A vector that is
/// not finite, or whose squared length is not finite in fp32, gets NaN. Single-threaded; calls over
/// disjoint ranges may run at the same time. Allocates once a call: fp32 copies of up to 336 vectors
/// and 32 centroids. Without `may_be_wide` AVX-512 is not used where it is there. Time: 2 dim num_centroids operations a vector; the bank is read once for 336.
template <class Element>
void novelty(const Element* vectors, const CentroidBank<Element>& bank, const NoveltyOutput& out,
             std::size_t start, std::size_t stop, bool may_be_wide = true);

}  // namespace moot
