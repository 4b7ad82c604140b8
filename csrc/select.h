// SPDX-License-Identifier: Apache-2.0
// select on the CPU: weigh votes, add noise, order, keep within limits (docs/ops/select.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moot {

/// A view of the candidates of all rows; all memory belongs to the caller.
struct Candidates {
  const float* votes;             ///< [rows, num_candidates, num_agents]
  const std::int32_t* lengths;    ///< [rows, num_candidates] tokens; negative: absent
  const std::int64_t* ids;        ///< [rows, num_candidates]
  std::size_t num_candidates;
  std::span<const float> theta;   ///< [num_agents]
  std::span<const float> shift;   ///< [num_agents]
  std::span<const float> scale;   ///< [num_agents]
};

/// How candidates are drawn.
struct SelectRule {
  std::int64_t seed;
  float temperature;           ///< 0: no noise
  std::int64_t max_count;      ///< >= 0
  std::int64_t budget_tokens;  ///< >= 0
};

/// Where results go.
struct SelectOutput {
  std::int32_t* order;     ///< [rows, num_candidates] positions, best first, absent last
  std::int32_t* num_kept;  ///< [rows]
  float* scores;           ///< [rows, num_candidates], -inf where absent
};

/// Order and keep the candidates of rows [start, stop).
///
/// Order: score descending, hash of (id, seed), id, position; a NaN score counts as -inf.
/// Single-threaded; calls over disjoint ranges may run at the same time. O(C log C) a row.
void select_rows(const Candidates& candidates, const SelectRule& rule, const SelectOutput& out,
                 std::size_t start, std::size_t stop);

}  // namespace moot
