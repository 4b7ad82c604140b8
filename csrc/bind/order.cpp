// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "permute.h"
#include "plan.h"
#include "strand.h"

namespace nb = nanobind;
using namespace nb::literals;

using Indices = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int64s = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pairs = nb::ndarray<std::int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using ConstPairs = nb::ndarray<const std::int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Owned = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;
using AheadLists = std::vector<std::tuple<Int64s, Int64s, Int64s>>;

namespace {

std::span<const std::int64_t> view(const Int64s& array) { return {array.data(), array.size()}; }

Owned to_numpy(std::vector<std::int64_t>&& values) {
  auto owner = std::make_unique<std::vector<std::int64_t>>(std::move(values));
  std::int64_t* data = owner->data();
  const std::size_t size = owner->size();
  nb::capsule capsule(owner.release(), [](void* p) noexcept {
    delete static_cast<std::vector<std::int64_t>*>(p);
  });
  return Owned(data, {size}, capsule);
}

void permute_in_place(Indices indices, std::uint64_t n, std::uint64_t key) {
  const std::span<std::int64_t> values(indices.data(), indices.size());
  for (const std::int64_t value : values) {
    if (value < 0 || static_cast<std::uint64_t>(value) >= n) {
      throw nb::index_error("index outside [0, n)");
    }
  }
  const nb::gil_scoped_release release;
  moot::permute(values, n, key);
}

std::tuple<Owned, Owned> locate(Int64s positions, Int64s start, Int64s shard, Int64s first_row,
                                std::uint64_t key, std::uint64_t ways, bool shuffle) {
  const std::size_t parts = shard.size();
  if (start.size() != parts + 1 || first_row.size() != parts || start.data()[0] != 0 || ways == 0) {
    throw nb::value_error("start holds one entry more than shard and first_row, from 0 on");
  }
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions.data()[i] < 0 || positions.data()[i] >= start.data()[parts]) {
      throw nb::index_error("a position outside the epoch");
    }
  }
  std::vector<std::int64_t> shards(positions.size());
  std::vector<std::int64_t> rows(positions.size());
  {
    const nb::gil_scoped_release release;
    moot::locate({view(start), view(shard), view(first_row), key, ways, shuffle}, view(positions),
                 shards, rows);
  }
  return {to_numpy(std::move(shards)), to_numpy(std::move(rows))};
}

void check_weights(const Int64s& weights) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::int64_t weight = weights.data()[i];
    if (weight < 0 || weight > (std::int64_t{1} << 52)) throw nb::value_error("weights lie in [0, 2**52]");
    sum += weight;
  }
  if (sum <= 0) throw nb::value_error("a stream must have a weight above 0");
}

// The keys of a strand's next draws; `pairs` is left as it was.
Owned draws(ConstPairs pairs, Int64s weights, std::int64_t first_key, std::size_t num_draws) {
  check_weights(weights);
  if (pairs.shape(0) != weights.size()) throw nb::value_error("a pair for each stream");
  std::vector<std::int64_t> now(pairs.data(), pairs.data() + pairs.size());
  std::vector<std::int64_t> keys(num_draws);
  {
    const nb::gil_scoped_release release;
    for (std::int64_t& key : keys) {
      const std::size_t stream = moot::draw(now, view(weights));
      key = ((first_key + static_cast<std::int64_t>(stream)) << moot::kPositionBits) |
            (now[2 * stream] - 1);
    }
  }
  return to_numpy(std::move(keys));
}

nb::tuple plan(const std::vector<std::int64_t>& layout, ConstPairs table, Int64s lane_lengths,
               Int64s weights, const AheadLists& lists, std::int64_t num_steps) {
  if (layout.size() != 8) throw nb::value_error("a layout holds eight integers");
  const moot::PlanLayout shape{layout[0], layout[1], layout[2], layout[3],
                               layout[4], layout[5], layout[6],
                               static_cast<moot::Packing>(layout[7])};
  check_weights(weights);
  const bool fits =
      std::all_of(layout.begin(), layout.begin() + 6, [](std::int64_t n) { return n > 0; }) &&
      shape.num_slots % shape.num_strands == 0 && layout[7] >= 0 && layout[7] <= 4 &&
      static_cast<std::int64_t>(weights.size()) == shape.num_streams &&
      static_cast<std::int64_t>(lists.size()) == shape.num_strands &&
      static_cast<std::int64_t>(lane_lengths.size()) == shape.num_slots * shape.lanes &&
      static_cast<std::int64_t>(table.shape(0)) ==
          shape.num_streams * shape.num_strands + shape.num_slots * shape.lanes;
  if (!fits) throw nb::value_error("the cursor does not fit its layout");
  std::vector<moot::Ahead> ahead;
  for (const auto& [drawn, key, length] : lists) {
    if (drawn.size() != key.size() || drawn.size() != length.size()) {
      throw nb::value_error("the lists of documents ahead must be equally long");
    }
    ahead.push_back({view(drawn), view(key), view(length)});
  }
  moot::Plan found;
  {
    const nb::gil_scoped_release release;
    found = moot::plan(shape, {table.data(), table.size()}, view(lane_lengths), view(weights), ahead,
                       num_steps);
  }
  return nb::make_tuple(to_numpy(std::move(found.step_end)), to_numpy(std::move(found.tables)),
                        to_numpy(std::move(found.slot)), to_numpy(std::move(found.document)),
                        to_numpy(std::move(found.offset)), to_numpy(std::move(found.length)),
                        to_numpy(std::move(found.target)));
}

}  // namespace

void bind_order(nb::module_& m) {
  m.attr("POSITION_BITS") = moot::kPositionBits;
  m.def("permute", &permute_in_place, "indices"_a.noconvert(), "n"_a, "key"_a,
        "Replace each index of [0, n) by its image under the permutation named by key, in place.");
  m.def("mix64", &moot::mix64, "word"_a, "The finaliser of SplitMix64.");
  m.def("locate", &locate, "positions"_a, "start"_a, "shard"_a, "first_row"_a, "key"_a, "ways"_a,
        "shuffle"_a, "Shard and row at each position of an epoch of a strand: two int64 [m].");
  m.def("draws", &draws, "pairs"_a, "weights"_a, "first_key"_a, "num_draws"_a,
        "Keys of the next documents that a strand draws from its streams: int64 [num_draws].");
  m.def("plan", &plan, "layout"_a, "table"_a, "lane_lengths"_a, "weights"_a, "ahead"_a,
        "num_steps"_a, "Plan steps: (step_end, tables, slot, document, offset, length, target).");
}
