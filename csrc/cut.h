// SPDX-License-Identifier: Apache-2.0
// Cutting the order into candidate pieces, and packing pieces into rows.
//
// A slot reads through `lanes` open documents, so that one long document never fills a step alone. Its
// cursor is 1 + 2 * lanes integers: the next position of the order, then (position, offset) of each
// open document, position -1 where a lane is free. Slots are cut one after the other and hand the next
// position on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moot {

/// A piece of a document: tokens [offset, offset + length) of the document at `position`.
struct Pieces {
  std::vector<std::int64_t> position;
  std::vector<std::int64_t> offset;
  std::vector<std::int64_t> length;
};

/// What a slot reads from: its cursor and the lengths (tokens) of the documents it may touch.
struct Slot {
  std::span<std::int64_t> cursor;              ///< 1 + 2 * lanes, advanced in place on success
  std::span<const std::int64_t> lane_lengths;  ///< length of each lane's open document
  std::span<const std::int64_t> ahead;         ///< lengths of the documents from cursor[0] on
};

/// Appends exactly `num_pieces` pieces of at most `piece_tokens` tokens, lane after lane. Returns
/// false, the cursor and `out` unchanged, when `ahead` is too short. Empty documents are passed over.
bool offer(Slot slot, std::int64_t num_pieces, std::int64_t piece_tokens, Pieces& out);

/// Appends pieces that fill one row of `row_tokens` tokens a lane, to the last token. Returns false
/// as above.
bool fill(Slot slot, std::int64_t row_tokens, Pieces& out);

/// The three outputs of `pack`, each `rows * row_tokens` long.
struct Rows {
  std::span<std::int64_t> input_ids;
  std::span<std::int64_t> labels;
  std::span<std::int64_t> position_ids;
};

/// One piece to place: tokens [source, source + length) go to [target, target + length).
struct Placement {
  std::span<const std::int64_t> source;
  std::span<const std::int64_t> target;
  std::span<const std::int64_t> length;
};

/// Writes every element of `rows`: tokens of the pieces, `pad` elsewhere; positions restart at each
/// piece and at each row; labels repeat the token, -100 where a segment starts and in padding.
/// Bounds are the caller's to check (`check_placement`).
template <typename Token>
void pack(std::span<const Token> tokens, const Placement& pieces, std::int64_t row_tokens,
          std::int64_t pad, const Rows& rows);

/// Throws std::out_of_range naming the first piece that leaves its source or target.
void check_placement(const Placement& pieces, std::int64_t num_tokens, std::int64_t num_targets);

}  // namespace moot
