// SPDX-License-Identifier: Apache-2.0
// The 32-bit hash of n-grams and candidates; triton_kernels/hashing.py is its specification.
#pragma once

#include <cstdint>

namespace moot {

inline constexpr std::uint32_t kHashStart = 0x6D6F6F74u;
inline constexpr std::uint32_t kNoiseSalt = 0x2545F491u;

/// Mix one word into a state.
inline constexpr std::uint32_t absorb(std::uint32_t state, std::uint32_t word) {
  const std::uint32_t mixed = (word ^ state) * 0x9E3779B1u;
  return mixed ^ (mixed >> 15);
}

/// Spread every bit of a state over all 32 (the finaliser of MurmurHash3, public domain).
inline constexpr std::uint32_t finish(std::uint32_t state) {
  state = (state ^ (state >> 16)) * 0x85EBCA6Bu;
  state = (state ^ (state >> 13)) * 0xC2B2AE35u;
  return state ^ (state >> 16);
}

/// State after absorbing a seed, low half first; hash_id continues from it.
inline constexpr std::uint32_t seed_state(std::int64_t seed) {
  const auto bits = static_cast<std::uint64_t>(seed);
  return absorb(absorb(kHashStart, static_cast<std::uint32_t>(bits)),
                static_cast<std::uint32_t>(bits >> 32));
}

/// Hash of an id under a seed (state = seed_state(seed)).
inline constexpr std::uint32_t hash_id(std::uint32_t state, std::int64_t id) {
  const auto bits = static_cast<std::uint64_t>(id);
  return finish(absorb(absorb(state, static_cast<std::uint32_t>(bits)),
                       static_cast<std::uint32_t>(bits >> 32)));
}

}  // namespace moot
