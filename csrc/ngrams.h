// SPDX-License-Identifier: Apache-2.0
// Buckets of a document's n-grams, block by block (docs/ops/ngram_log_ratio.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "hash.h"

namespace moot {

inline constexpr std::size_t kMaxOrder = 3;

/// Buckets of the n-grams that start in [position, position + kBlock) of a document.
///
/// All of one order stand before those of the next, so that the loops run over plain arrays.
/// @param orders bit k is set if n-grams of k tokens count; k = 1, 2, 3.
/// @param bucket_mask number of buckets, a power of two, less one.
/// @param buckets room for kMaxOrder * kBlock; returns how many of them are filled.
template <std::size_t kBlock, class Token>
std::size_t hash_ngrams(const Token* document, std::size_t length, std::size_t position,
                        unsigned orders, std::uint32_t bucket_mask, std::uint32_t* buckets) {
  std::uint32_t state[kBlock];
  for (std::size_t i = 0; i < kBlock; ++i) state[i] = kHashStart;
  std::size_t count = 0;
  for (std::size_t order = 1; order <= kMaxOrder && (orders >> order) != 0; ++order) {
    if (length < position + order) break;
    const std::size_t left = length - position - order + 1;
    const std::size_t starts = left < kBlock ? left : kBlock;
    const Token* words = document + position + order - 1;
    for (std::size_t i = 0; i < starts; ++i) {
      state[i] = absorb(state[i], static_cast<std::uint32_t>(words[i]));
    }
    if ((orders >> order & 1u) == 0) continue;
    for (std::size_t i = 0; i < starts; ++i) buckets[count + i] = finish(state[i]) & bucket_mask;
    count += starts;
  }
  return count;
}

}  // namespace moot
