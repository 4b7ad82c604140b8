// SPDX-License-Identifier: Apache-2.0
#include "permute.h"

#include <bit>

namespace moot {
namespace {

constexpr int kRounds = 6;

std::uint64_t feistel(std::uint64_t x, int half_bits, std::uint64_t key) {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  std::uint64_t left = x >> half_bits;
  std::uint64_t right = x & mask;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t f = mix64(right ^ mix64(key + static_cast<std::uint64_t>(round)));
    const std::uint64_t next = left ^ (f & mask);
    left = right;
    right = next;
  }
  return (left << half_bits) | right;
}

}  // namespace

std::uint64_t permute(std::uint64_t index, std::uint64_t n, std::uint64_t key) {
  if (n <= 1) return 0;
  const int bits = static_cast<int>(std::bit_width(n - 1));
  const int half_bits = (bits + 1) / 2;
  std::uint64_t x = index;
  do {
    x = feistel(x, half_bits, key);
  } while (x >= n);
  return x;
}

void permute(std::span<std::int64_t> indices, std::uint64_t n, std::uint64_t key) {
  for (std::int64_t& index : indices) {
    index = static_cast<std::int64_t>(permute(static_cast<std::uint64_t>(index), n, key));
  }
}

}  // namespace moot
