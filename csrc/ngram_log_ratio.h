// SPDX-License-Identifier: Apache-2.0
// ngram_log_ratio on the CPU: the sum of a table over hashed n-grams (docs/ops/ngram_log_ratio.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moot {

/// A step of the fixed-point numbers in a table of log ratios.
inline constexpr double kLogRatioStep = 1.0 / (1 << 20);

/// How n-grams become buckets.
struct NgramRule {
  unsigned orders;            ///< bit k is set if n-grams of k tokens count; k = 1, 2, 3
  std::size_t num_buckets;    ///< a power of two, at most 2^31
};

/// Write the log ratio of documents [start, stop); document i is tokens[cu_seqlens[i], cu_seqlens[i+1]).
///
/// Single-threaded; calls over disjoint ranges may run at the same time. Allocates nothing. Time: one
/// table entry read for each n-gram.
/// @param table [num_buckets], in steps of kLogRatioStep.
/// @param out [n]; the exact sum of a document, rounded once.
/// @throws std::invalid_argument for offsets out of range; entries before the offending document may
///         have been written.
template <class Token>
void ngram_log_ratio(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                     const NgramRule& rule, const std::int32_t* table, double* out,
                     std::size_t start, std::size_t stop);

/// Add the n-grams of documents [start, stop) to counts [num_buckets]. Calls that share counts must
/// not run at the same time. Throws as ngram_log_ratio does.
template <class Token>
void count_ngrams(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                  const NgramRule& rule, std::int64_t* counts, std::size_t start,
                  std::size_t stop);

}  // namespace moot
