// SPDX-License-Identifier: Apache-2.0
// The order of a strand: which sample of which shard stands at a position, by formula.
//
// A strand owns a run of samples, given as parts (each a run of rows of one shard). An epoch lays the
// parts end to end in an order of its own and cuts that line into `ways` equal lanes; positions take
// one sample of each lane in turn, so that at any time `ways` shards are read, each at another place.
// Rows are permuted inside their part, and the lanes inside each turn. Random access, no memory of
// its own.
#pragma once

#include <cstdint>
#include <span>

namespace moot {

/// One epoch of a strand. Parts lie at [start[i], start[i + 1]) of the line and begin at `first_row` of
/// `shard`. `key` names the permutations; `shuffle` false reads the line as it is (needs ways = 1).
struct StrandEpoch {
  std::span<const std::int64_t> start;      ///< parts + 1, ascending from 0 to the number of samples
  std::span<const std::int64_t> shard;      ///< parts
  std::span<const std::int64_t> first_row;  ///< parts
  std::uint64_t key;
  std::uint64_t ways;
  bool shuffle;
};

/// Writes shard and row of each position; every position lies in [0, start.back()). No allocation.
/// Time: a binary search over the parts and two short permutations a position.
void locate(const StrandEpoch& epoch, std::span<const std::int64_t> positions,
            std::span<std::int64_t> shards, std::span<std::int64_t> rows);

}  // namespace moot
