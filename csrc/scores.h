// SPDX-License-Identifier: Apache-2.0
// document_scores on the CPU: n-gram bag, heads, states, votes, total (docs/ops/document_scores.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moot {

/// A view of an n-gram model; all memory belongs to the caller.
struct NgramModel {
  const std::int8_t* table;      ///< [num_buckets, dim]
  std::size_t num_buckets;       ///< a power of two
  std::size_t dim;               ///< a multiple of 16
  const std::int16_t* heads;     ///< [num_heads, dim]
  std::span<const std::int32_t> bias;  ///< [num_heads]
  std::span<const float> scale;        ///< [num_heads]
  unsigned orders;               ///< bit k is set if n-grams of k tokens count; k = 1, 2, 3
};

/// A view of the agents' tables; all memory belongs to the caller.
struct AgentTables {
  std::span<const std::int32_t> kind;        ///< 0 stored, 1 binned, 2 argmax
  std::span<const std::int32_t> first_head;  ///< not read for kind 0
  std::span<const std::int32_t> num_states;  ///< in [1, max_states]
  const float* edges;                        ///< [num_agents, max_states - 1]
  const float* memory;                       ///< [num_agents, max_states]
  std::span<const float> theta;              ///< [num_agents]
  std::size_t max_states;
};

/// Where results go; a row for each document of the batch.
struct ScoreOutput {
  float* values;         ///< [n, num_heads]
  std::int32_t* states;  ///< [n, num_agents]
  float* votes;          ///< [n, num_agents]
  float* total;          ///< [n]
};

/// Score documents [start, stop) of a batch; document i is tokens[cu_seqlens[i], cu_seqlens[i+1]).
///
/// Single-threaded; calls over disjoint ranges may run at the same time. Allocates once a call,
/// not once a document. Time: one row of `dim` bytes read for each n-gram.
/// @param stored_states [n, num_agents], or nullptr if no agent has kind 0.
/// @throws std::invalid_argument for offsets, heads or states out of range; rows before the
///         offending one may have been written.
template <class Token>
void document_scores(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                     const NgramModel& model, const AgentTables& agents,
                     const std::int32_t* stored_states, const ScoreOutput& out, std::size_t start,
                     std::size_t stop);

}  // namespace moot
