// SPDX-License-Identifier: Apache-2.0
#include "permute.h"

#include <bit>

namespace moot {

Permutation::Permutation(std::uint64_t n, std::uint64_t key)
    : n_(n), key_(key), half_bits_(n > 1 ? (static_cast<int>(std::bit_width(n - 1)) + 1) / 2 : 0) {
  for (int round = 0; round < kRounds; ++round) {
    round_keys_[round] = mix64(key + static_cast<std::uint64_t>(round));
  }
}

std::uint64_t Permutation::operator()(std::uint64_t index) const {
  if (n_ <= 1) return 0;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t x = index;
  do {
    std::uint64_t left = x >> half_bits_;
    std::uint64_t right = x & mask;
    for (const std::uint64_t round_key : round_keys_) {
      const std::uint64_t next = left ^ (mix64(right ^ round_key) & mask);
      left = right;
      right = next;
    }
    x = (left << half_bits_) | right;
  } while (x >= n_);
  return x;
}

std::uint64_t permute(std::uint64_t index, std::uint64_t n, std::uint64_t key) {
  return Permutation(n, key)(index);
}

void permute(std::span<std::int64_t> indices, std::uint64_t n, std::uint64_t key) {
  const Permutation image(n, key);
  for (std::int64_t& index : indices) {
    index = static_cast<std::int64_t>(image(static_cast<std::uint64_t>(index)));
  }
}

}  // namespace moot
