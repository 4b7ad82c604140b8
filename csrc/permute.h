// SPDX-License-Identifier: Apache-2.0
// A seeded permutation of [0, n) by formula: O(1) memory, random access by position.
//
// A balanced Feistel network over the smallest even number of bits that covers n, walked along its
// cycle until it falls inside [0, n) (Black and Rogaway 2002, "cycle walking"); at most four walks
// are expected. Equal (n, key) give the same permutation on every machine.
#pragma once

#include <cstdint>
#include <span>

namespace moot {

/// The finaliser of SplitMix64: a bijection of 64-bit words in which every input bit reaches every
/// output bit.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// The permutation of [0, n) named by `key`, its round keys worked out. Immutable, 64 bytes.
class Permutation {
 public:
  Permutation(std::uint64_t n, std::uint64_t key);

  std::uint64_t size() const { return n_; }
  std::uint64_t key() const { return key_; }

  /// The image of `index`, which must lie below size().
  std::uint64_t operator()(std::uint64_t index) const;

 private:
  static constexpr int kRounds = 6;

  std::uint64_t n_;
  std::uint64_t key_;
  int half_bits_;
  std::uint64_t round_keys_[kRounds];
};

/// The image of `index` under the permutation of [0, n) named by `key`. Needs index < n.
std::uint64_t permute(std::uint64_t index, std::uint64_t n, std::uint64_t key);

/// Replaces every entry of `indices` (each in [0, n)) by its image. Thread-safe, no allocation.
void permute(std::span<std::int64_t> indices, std::uint64_t n, std::uint64_t key);

}  // namespace moot
