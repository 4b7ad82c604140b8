// SPDX-License-Identifier: Apache-2.0
#include "select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "hash.h"

namespace moot {
namespace {

constexpr float kWorst = -std::numeric_limits<float>::infinity();
constexpr std::int32_t kSqrtHalfBits = 0x3F3504F3;

/// Natural logarithm of a positive normal float; triton_kernels/select/reference.py explains it.
float log_fp32(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  const std::int32_t exponent = (bits - kSqrtHalfBits) >> 23;
  const float mantissa = std::bit_cast<float>(bits - exponent * (1 << 23));
  const auto power = static_cast<float>(exponent);
  const float s = (mantissa - 1.0f) / (mantissa + 1.0f);
  const float square = s * s;
  constexpr auto c9 = static_cast<float>(1.0 / 9.0);
  constexpr auto c7 = static_cast<float>(1.0 / 7.0);
  constexpr auto c5 = static_cast<float>(1.0 / 5.0);
  constexpr auto c3 = static_cast<float>(1.0 / 3.0);
  const float series = square * (square * (square * (square * c9 + c7) + c5) + c3);
  const float twice = s + s;
  constexpr auto high = static_cast<float>(0.693359375);
  constexpr auto low = static_cast<float>(-0.00021219444);
  return power * high + (power * low + (twice * series + twice));
}

/// Standard Gumbel noise of a hash.
float gumbel(std::uint32_t tie) {
  const auto bits = static_cast<std::int32_t>(finish(tie + kNoiseSalt) >> 9);
  const float uniform = (static_cast<float>(bits) + 0.5f) * 0x1p-23f;
  return -log_fp32(-log_fp32(uniform));
}

struct Key {
  float score;
  std::uint32_t tie;
  std::int64_t id;
  std::int32_t position;

  bool operator<(const Key& other) const {
    return std::tie(other.score, tie, id, position) <
           std::tie(score, other.tie, other.id, other.position);
  }
};

float combine(const Candidates& candidates, std::size_t place) {
  const std::size_t num_agents = candidates.theta.size();
  const float* votes = candidates.votes + place * num_agents;
  float score = 0.0f;
  for (std::size_t agent = 0; agent < num_agents; ++agent) {
    const float vote = (votes[agent] - candidates.shift[agent]) * candidates.scale[agent];
    score += candidates.theta[agent] * vote;
  }
  return score;
}

/// Count the longest prefix of the sorted present candidates within both limits.
std::int32_t count_kept(const std::vector<Key>& keys, const std::int32_t* lengths,
                        const SelectRule& rule) {
  std::int64_t tokens = 0;
  std::int32_t kept = 0;
  for (const Key& key : keys) {
    tokens += lengths[key.position];
    if (kept >= rule.max_count || tokens > rule.budget_tokens) break;
    ++kept;
  }
  return kept;
}

void select_row(const Candidates& candidates, const SelectRule& rule, const SelectOutput& out,
                std::size_t row, std::vector<Key>& keys) {
  const std::uint32_t state = seed_state(rule.seed);
  const std::size_t first = row * candidates.num_candidates;
  const auto count = static_cast<std::int32_t>(candidates.num_candidates);
  keys.clear();
  for (std::int32_t position = 0; position < count; ++position) {
    const std::size_t place = first + static_cast<std::size_t>(position);
    out.scores[place] = kWorst;
    if (candidates.lengths[place] < 0) continue;
    const std::uint32_t tie = hash_id(state, candidates.ids[place]);
    float score = combine(candidates, place);
    if (rule.temperature != 0.0f) score += rule.temperature * gumbel(tie);
    out.scores[place] = score;
    keys.push_back({std::isnan(score) ? kWorst : score, tie, candidates.ids[place], position});
  }
  std::sort(keys.begin(), keys.end());
  out.num_kept[row] = count_kept(keys, candidates.lengths + first, rule);
  std::int32_t* order = out.order + first;
  for (const Key& key : keys) *order++ = key.position;
  for (std::int32_t position = 0; position < count; ++position) {
    if (candidates.lengths[first + static_cast<std::size_t>(position)] < 0) *order++ = position;
  }
}

}  // namespace

void select_rows(const Candidates& candidates, const SelectRule& rule, const SelectOutput& out,
                 std::size_t start, std::size_t stop) {
  std::vector<Key> keys;
  keys.reserve(candidates.num_candidates);
  for (std::size_t row = start; row < stop; ++row) select_row(candidates, rule, out, row, keys);
}

}  // namespace moot
