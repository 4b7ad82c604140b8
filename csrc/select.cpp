// SPDX-License-Identifier: Apache-2.0
#include "select.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "hash.h"

namespace moot {
namespace {

constexpr float kWorst = -std::numeric_limits<float>::infinity();
constexpr std::int32_t kSqrtHalfBits = 0x3F3504F3;
constexpr std::size_t kSmall = 256;  // below it a comparison sort is quicker than three passes

/// Natural logarithm of a positive normal float; triton_kernels/select/reference.py explains it.
inline float log_fp32(float x) {
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
inline float gumbel(std::uint32_t tie) {
  const auto bits = static_cast<std::int32_t>(finish(tie + kNoiseSalt) >> 9);
  const float uniform = (static_cast<float>(bits) + 0.5f) * 0x1p-23f;
  return -log_fp32(-log_fp32(uniform));
}

/// Unsigned number that ascends as the score descends; 0.0 equals -0.0, NaN is the worst.
inline std::uint32_t descending(float score) {
  const auto bits = std::bit_cast<std::uint32_t>((score == score ? score : kWorst) + 0.0f);
  const auto sign = static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31);
  return ~(bits ^ (sign | 0x80000000u));
}

/// Sort by the high 32 bits of each key, keeping the order of equal ones; `spare` is as long.
void sort_by_high_half(std::uint64_t* keys, std::uint64_t* spare, std::size_t count) {
  constexpr std::size_t kDigits = 4, kBins = 256;
  if (count < kSmall) return std::sort(keys, keys + count);  // the low half ascends already
  std::array<std::array<std::uint32_t, kBins>, kDigits> starts{};
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t digit = 0; digit < kDigits; ++digit) {
      ++starts[digit][keys[i] >> (32 + 8 * digit) & (kBins - 1)];
    }
  }
  std::uint64_t* from = keys;
  std::uint64_t* to = spare;
  for (std::size_t digit = 0; digit < kDigits; ++digit) {
    auto& start = starts[digit];
    const std::size_t shift = 32 + 8 * digit;
    if (start[from[0] >> shift & (kBins - 1)] == count) continue;  // all alike
    std::uint32_t total = 0;
    for (std::uint32_t& each : start) total += std::exchange(each, total);
    for (std::size_t i = 0; i < count; ++i) to[start[from[i] >> shift & (kBins - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys) std::copy(from, from + count, keys);
}

/// Calls run(begin, end) for every stretch of two or more keys of equal high halves.
template <class Run>
void for_ties(const std::uint64_t* keys, std::size_t count, Run run) {
  for (std::size_t begin = 0; begin + 1 < count;) {
    std::size_t end = begin + 1;
    while (end < count && keys[begin] >> 32 == keys[end] >> 32) ++end;
    if (end - begin > 1) run(begin, end);
    begin = end;
  }
}

std::uint64_t join(std::uint32_t high, std::size_t position) {
  return static_cast<std::uint64_t>(high) << 32 | position;
}

std::size_t position_of(std::uint64_t key) { return static_cast<std::uint32_t>(key); }

/// The candidates of one row, and memory to order them in.
class Row {
 public:
  explicit Row(std::size_t num_candidates)
      : memory_(new std::uint64_t[2 * num_candidates + (num_candidates + 1) / 2]),
        keys_(memory_.get()),
        spare_(keys_ + num_candidates),
        ties_(reinterpret_cast<std::uint32_t*>(spare_ + num_candidates)) {}

  void select(const Candidates& candidates, const GroupQuotas* quotas, const SelectRule& rule,
              const SelectOutput& out, std::size_t row) {
    first_ = row * candidates.num_candidates;
    count_ = candidates.num_candidates;
    lengths_ = candidates.lengths + first_;
    ids_ = candidates.ids + first_;
    score(candidates, rule, out.scores + first_);
    sort_present(out.scores + first_);
    std::size_t num_open = num_present_;
    if (quotas != nullptr) num_open = move_back(*quotas, row);
    const std::size_t kept = count_kept(num_open, rule);
    out.num_kept[row] = static_cast<std::int32_t>(kept);
    if (rule.is_full) {
      write_order(out.order + first_);
    } else {
      write_kept(out.order + first_, kept, kept < num_open);
    }
  }

 private:
  /// One simple loop a step: the compiler makes vectors of each.
  void score(const Candidates& candidates, const SelectRule& rule, float* scores) {
    const std::uint32_t state = seed_state(rule.seed);
    std::uint32_t* ties = ties_;
    for (std::size_t i = 0; i < count_; ++i) ties[i] = hash_id(state, ids_[i]);
    std::fill(scores, scores + count_, 0.0f);
    const std::size_t num_agents = candidates.theta.size();
    const float* votes = candidates.votes + first_ * num_agents;
    for (std::size_t agent = 0; agent < num_agents; ++agent) {
      const float theta = candidates.theta[agent];
      const float shift = candidates.shift[agent];
      const float scale = candidates.scale[agent];
      const float* vote = votes + agent;
      for (std::size_t i = 0; i < count_; ++i) {
        scores[i] += theta * ((vote[i * num_agents] - shift) * scale);
      }
    }
    const float temperature = rule.temperature;
    if (temperature != 0.0f) {
      for (std::size_t i = 0; i < count_; ++i) scores[i] += temperature * gumbel(ties[i]);
    }
    for (std::size_t i = 0; i < count_; ++i) scores[i] = lengths_[i] < 0 ? kWorst : scores[i];
  }

  /// Put the present candidates' positions in order into the low halves of keys_.
  void sort_present(const float* scores) {
    std::size_t num = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      keys_[num] = join(descending(scores[i]), i);
      num += lengths_[i] >= 0;
    }
    num_present_ = num;
    sort_by_high_half(keys_, spare_, num);
    for_ties(keys_, num, [&](std::size_t begin, std::size_t end) { break_ties(begin, end); });
  }

  /// Order candidates [begin, end) of keys_, which ascend by position, by hash, id and position.
  void break_ties(std::size_t begin, std::size_t end) {
    std::uint64_t* keys = keys_ + begin;
    const std::size_t count = end - begin;
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = join(ties_[position_of(keys[i])], position_of(keys[i]));
    }
    sort_by_high_half(keys, spare_ + begin, count);
    for_ties(keys, count, [&](std::size_t from, std::size_t to) {
      std::sort(keys + from, keys + to, [&](std::uint64_t a, std::uint64_t b) {
        return std::pair(ids_[position_of(a)], a) < std::pair(ids_[position_of(b)], b);
      });
    });
  }

  /// Move the candidates that are over their group's quota behind the others; count the others.
  std::size_t move_back(const GroupQuotas& quotas, std::size_t row) {
    const std::int32_t* groups = quotas.groups + first_;
    const std::size_t base = row * quotas.num_groups;
    used_count_.assign(quotas.num_groups, 0);
    used_tokens_.assign(quotas.num_groups, 0);
    std::size_t num_open = 0, num_over = 0;
    for (std::size_t i = 0; i < num_present_; ++i) {
      const std::size_t position = position_of(keys_[i]);
      const auto group = static_cast<std::size_t>(groups[position]);
      bool is_over = false;
      if (groups[position] >= 0 && group < quotas.num_groups) {
        const std::int64_t count = ++used_count_[group];
        const std::int64_t tokens = used_tokens_[group] += lengths_[position];
        is_over = (quotas.max_count != nullptr && count > quotas.max_count[base + group]) ||
                  (quotas.budget_tokens != nullptr && tokens > quotas.budget_tokens[base + group]);
      }
      if (is_over) {
        spare_[num_over++] = join(static_cast<std::uint32_t>(position), position);
      } else {
        keys_[num_open++] = keys_[i];
      }
    }
    std::copy_n(spare_, num_over, keys_ + num_open);
    sort_by_high_half(keys_ + num_open, spare_, num_over);  // by position
    if (num_over > 1) break_ties(num_open, num_present_);
    return num_open;
  }

  /// Count the longest prefix of the first `num_open` candidates within both limits.
  std::size_t count_kept(std::size_t num_open, const SelectRule& rule) const {
    std::int64_t tokens = 0;
    std::size_t kept = 0;
    for (; kept < num_open; ++kept) {
      tokens += lengths_[position_of(keys_[kept])];
      if (static_cast<std::int64_t>(kept) >= rule.max_count || tokens > rule.budget_tokens) break;
    }
    return kept;
  }

  void write_order(std::int32_t* order) const {
    for (std::size_t i = 0; i < num_present_; ++i) {
      *order++ = static_cast<std::int32_t>(position_of(keys_[i]));
    }
    if (num_present_ == count_) return;
    for (std::size_t i = 0; i < count_; ++i) {
      if (lengths_[i] < 0) *order++ = static_cast<std::int32_t>(i);
    }
  }

  /// Overwrites the hashes.
  void write_kept(std::int32_t* order, std::size_t kept, bool has_next) {
    std::uint32_t* is_kept = ties_;
    std::fill(is_kept, is_kept + count_, 0u);
    for (std::size_t i = 0; i < kept; ++i) is_kept[position_of(keys_[i])] = 1;
    std::size_t num = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      order[num] = static_cast<std::int32_t>(i);
      num += is_kept[i];
    }
    std::fill(order + kept, order + count_, -1);
    if (has_next) order[kept] = static_cast<std::int32_t>(position_of(keys_[kept]));
  }

  std::unique_ptr<std::uint64_t[]> memory_;  // one block, which malloc then keeps between calls
  std::uint64_t* keys_;
  std::uint64_t* spare_;
  std::uint32_t* ties_;
  std::vector<std::int64_t> used_count_, used_tokens_;
  const std::int32_t* lengths_ = nullptr;
  const std::int64_t* ids_ = nullptr;
  std::size_t first_ = 0, count_ = 0, num_present_ = 0;
};

}  // namespace

void select_rows(const Candidates& candidates, const GroupQuotas* quotas, const SelectRule& rule,
                 const SelectOutput& out, std::size_t start, std::size_t stop) {
  Row scratch(candidates.num_candidates);
  for (std::size_t row = start; row < stop; ++row) {
    scratch.select(candidates, quotas, rule, out, row);
  }
}

}  // namespace moot
