// SPDX-License-Identifier: Apache-2.0
// Planning steps: which pieces of which documents stand in which slot, several steps at a time.
//
// The global batch is cut into slots; slots share the strands evenly, in order. A slot keeps `lanes`
// open documents. The cursor is a table of pairs: for each strand and stream (next position, credit),
// then for each slot and lane (key, offset) of the open document, key -1 where a lane is free. A key is
// (strand * num_streams + stream) << kPositionBits | position.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moot {

inline constexpr int kPositionBits = 44;

enum class Packing : std::int32_t {
  contiguous = 0,  ///< a lane a row: documents run on from step to step, no padding
  offer = 1,       ///< a number of candidate pieces, for a selection to choose from
  pad = 2,         ///< one piece a row
  first_fit = 3,   ///< whole documents into the first row with room
  best_fit = 4,    ///< whole documents into the fullest row with room
};

/// The shape of a plan. A document longer than `row_tokens` is always cut.
struct PlanLayout {
  std::int64_t num_streams;
  std::int64_t num_strands;     ///< divides num_slots
  std::int64_t num_slots;
  std::int64_t lanes;           ///< rows_per_slot for `contiguous` and `pad`
  std::int64_t rows_per_slot;
  std::int64_t row_tokens;
  std::int64_t num_candidates;  ///< of a slot and step, for `offer`
  Packing packing;
};

/// Which stream is drawn next: the one with the largest credit (the first among equals). Before each draw
/// every stream gains its weight, the drawn one then pays the sum: over `sum` draws each stream is
/// drawn exactly `weight` times, and at any time within one of its share ("smooth weighted round-robin").
/// `pairs` holds (position, credit) of each stream of one strand. Returns the stream.
std::size_t draw(std::span<std::int64_t> pairs, std::span<const std::int64_t> weights);

/// The documents that a strand draws next, those passed over left out.
struct Ahead {
  std::span<const std::int64_t> draw;    ///< which of the strand's next draws it is, ascending
  std::span<const std::int64_t> key;
  std::span<const std::int64_t> length;  ///< tokens
};

/// Pieces of several steps, step after step and slot after slot.
struct Plan {
  std::vector<std::int64_t> step_end;  ///< pieces up to and with each step
  std::vector<std::int64_t> tables;    ///< the cursor behind each step
  std::vector<std::int64_t> slot;
  std::vector<std::int64_t> document;  ///< index into all `ahead` in a row, or ~lane of the table
  std::vector<std::int64_t> offset;
  std::vector<std::int64_t> length;
  std::vector<std::int64_t> target;    ///< token in the slot's rows; 0 for `offer`
};

/// Plans at most `num_steps` steps, fewer when `ahead` is used up (even none). `table` is the cursor,
/// `lane_lengths` the tokens of each lane's open document. Empty documents are passed over. The plan of a
/// step does not depend on `num_steps` or on how far `ahead` reaches.
Plan plan(const PlanLayout& layout, std::span<const std::int64_t> table,
          std::span<const std::int64_t> lane_lengths, std::span<const std::int64_t> weights,
          std::span<const Ahead> ahead, std::int64_t num_steps);

}  // namespace moot
