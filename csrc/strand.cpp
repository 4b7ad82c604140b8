// SPDX-License-Identifier: Apache-2.0
#include "strand.h"

#include <algorithm>

#include "permute.h"

namespace moot {
namespace {

// The place on the line of a position: turn `position / ways`, in one of the lanes.
std::uint64_t place_of(const StrandEpoch& epoch, std::uint64_t position, std::uint64_t size) {
  if (epoch.ways <= 1) return position;
  const std::uint64_t turn = position / epoch.ways;
  const std::uint64_t nth = position % epoch.ways;
  const std::uint64_t shortest = size / epoch.ways;
  const std::uint64_t longer = size % epoch.ways;  // the first lanes hold one sample more
  const std::uint64_t lanes = turn < shortest ? epoch.ways : longer;
  const std::uint64_t lane = permute(nth, lanes, mix64(epoch.key + turn));
  return lane * shortest + std::min(lane, longer) + turn;
}

}  // namespace

void locate(const StrandEpoch& epoch, std::span<const std::int64_t> positions,
            std::span<std::int64_t> shards, std::span<std::int64_t> rows) {
  const auto size = static_cast<std::uint64_t>(epoch.start.back());
  Permutation rows_of_part(1, 0);  // mostly that of the position before
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const auto place = static_cast<std::int64_t>(
        place_of(epoch, static_cast<std::uint64_t>(positions[i]), size));
    const auto after = std::upper_bound(epoch.start.begin(), epoch.start.end(), place);
    const auto part = static_cast<std::size_t>(after - epoch.start.begin()) - 1;
    auto row = static_cast<std::uint64_t>(place - epoch.start[part]);
    if (epoch.shuffle) {
      const auto part_size = static_cast<std::uint64_t>(epoch.start[part + 1] - epoch.start[part]);
      const auto shard = static_cast<std::uint64_t>(epoch.shard[part]);
      const std::uint64_t key = mix64(epoch.key ^ mix64(~shard));
      if (rows_of_part.key() != key || rows_of_part.size() != part_size) {
        rows_of_part = Permutation(part_size, key);
      }
      row = rows_of_part(row);
    }
    shards[i] = epoch.shard[part];
    rows[i] = epoch.first_row[part] + static_cast<std::int64_t>(row);
  }
}

}  // namespace moot
