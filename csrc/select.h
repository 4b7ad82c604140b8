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
  std::size_t num_candidates;     ///< below 2**31
  std::span<const float> theta;   ///< [num_agents]
  std::span<const float> shift;   ///< [num_agents]
  std::span<const float> scale;   ///< [num_agents]
};

/// What the groups of a row may take at most.
struct GroupQuotas {
  const std::int32_t* groups;         ///< [rows, num_candidates]; outside [0, num_groups): no quota
  const std::int64_t* max_count;      ///< [rows, num_groups], or null: no limit
  const std::int64_t* budget_tokens;  ///< [rows, num_groups], or null: no limit
  std::size_t num_groups;
};

/// How candidates are drawn.
struct SelectRule {
  std::int64_t seed;
  float temperature;           ///< 0: no noise
  std::int64_t max_count;      ///< >= 0
  std::int64_t budget_tokens;  ///< >= 0
  bool is_full;                ///< order all candidates; else name the kept ones alone
};

/// Where results go.
struct SelectOutput {
  std::int32_t* order;     ///< [rows, num_candidates]
  std::int32_t* num_kept;  ///< [rows]
  float* scores;           ///< [rows, num_candidates], -inf where absent
};

/// Order and keep the candidates of rows [start, stop).
///
/// Full order: within quota by score descending, hash of (id, seed), id, position; then those over
/// their group's quota by hash, id, position; then the absent by position. A NaN score counts as -inf.
/// Else: positions of the kept ascending, the first that did not fit or -1, then -1. `quotas` may be
/// null. Single-threaded; calls over disjoint ranges may run at the same time. O(C) a row by radix
/// sort, but O(C log C) where scores and hashes tie; scratch of 20 bytes a candidate a call.
void select_rows(const Candidates& candidates, const GroupQuotas* quotas, const SelectRule& rule,
                 const SelectOutput& out, std::size_t start, std::size_t stop);

}  // namespace moot
