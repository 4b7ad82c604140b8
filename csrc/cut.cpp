// SPDX-License-Identifier: Apache-2.0
#include "cut.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace moot {
namespace {

/// One slot's cursor while it is being advanced; written back only when the whole step succeeded.
class Walk {
 public:
  explicit Walk(const Slot& slot)
      : slot_(slot),
        cursor_(slot.cursor.begin(), slot.cursor.end()),
        lengths_(slot.lane_lengths.begin(), slot.lane_lengths.end()) {}

  std::size_t lanes() const { return lengths_.size(); }

  /// Makes sure that the lane has an open, unfinished document. False when `ahead` is used up.
  bool open(std::size_t lane) {
    std::int64_t& position = cursor_[1 + 2 * lane];
    std::int64_t& offset = cursor_[2 + 2 * lane];
    while (position < 0 || offset >= lengths_[lane]) {
      const auto taken = static_cast<std::size_t>(cursor_[0] - slot_.cursor[0]);
      if (taken >= slot_.ahead.size()) return false;
      position = cursor_[0]++;
      offset = 0;
      lengths_[lane] = slot_.ahead[taken];
    }
    return true;
  }

  /// Takes at most `most` tokens from the lane's open document; returns how many.
  std::int64_t take(std::size_t lane, std::int64_t most, Pieces& out) {
    std::int64_t& offset = cursor_[2 + 2 * lane];
    const std::int64_t length = std::min(most, lengths_[lane] - offset);
    out.position.push_back(cursor_[1 + 2 * lane]);
    out.offset.push_back(offset);
    out.length.push_back(length);
    offset += length;
    return length;
  }

  /// Closes finished documents, so that a cursor never points at one, and writes the cursor back.
  void commit() {
    for (std::size_t lane = 0; lane < lanes(); ++lane) {
      if (cursor_[1 + 2 * lane] >= 0 && cursor_[2 + 2 * lane] >= lengths_[lane]) {
        cursor_[1 + 2 * lane] = -1;
        cursor_[2 + 2 * lane] = 0;
      }
    }
    std::copy(cursor_.begin(), cursor_.end(), slot_.cursor.begin());
  }

 private:
  Slot slot_;
  std::vector<std::int64_t> cursor_;
  std::vector<std::int64_t> lengths_;
};

void shrink(Pieces& pieces, std::size_t size) {
  pieces.position.resize(size);
  pieces.offset.resize(size);
  pieces.length.resize(size);
}

}  // namespace

bool offer(Slot slot, std::int64_t num_pieces, std::int64_t piece_tokens, Pieces& out) {
  Walk walk(slot);
  const std::size_t start = out.length.size();
  for (std::int64_t i = 0; i < num_pieces; ++i) {
    const std::size_t lane = static_cast<std::size_t>(i) % walk.lanes();
    if (!walk.open(lane)) {
      shrink(out, start);
      return false;
    }
    walk.take(lane, piece_tokens, out);
  }
  walk.commit();
  return true;
}

bool fill(Slot slot, std::int64_t row_tokens, Pieces& out) {
  Walk walk(slot);
  const std::size_t start = out.length.size();
  for (std::size_t lane = 0; lane < walk.lanes(); ++lane) {
    for (std::int64_t room = row_tokens; room > 0;) {
      if (!walk.open(lane)) {
        shrink(out, start);
        return false;
      }
      room -= walk.take(lane, room, out);
    }
  }
  walk.commit();
  return true;
}

template <typename Token>
void pack(std::span<const Token> tokens, const Placement& pieces, std::int64_t row_tokens,
          std::int64_t pad, const Rows& rows) {
  const auto size = static_cast<std::int64_t>(rows.input_ids.size());
  for (std::int64_t i = 0; i < size; ++i) {
    rows.input_ids[i] = pad;
    rows.labels[i] = -100;
    rows.position_ids[i] = i % row_tokens;
  }
  for (std::size_t piece = 0; piece < pieces.length.size(); ++piece) {
    const std::int64_t source = pieces.source[piece];
    const std::int64_t target = pieces.target[piece];
    const std::int64_t length = pieces.length[piece];
    std::int64_t position = 0;
    for (std::int64_t i = 0; i < length; ++i, ++position) {
      if ((target + i) % row_tokens == 0) position = 0;
      const auto token = static_cast<std::int64_t>(tokens[source + i]);
      rows.input_ids[target + i] = token;
      rows.labels[target + i] = position == 0 ? -100 : token;
      rows.position_ids[target + i] = position;
    }
    // Padding behind the piece is a segment of its own, so that it never joins a document.
    const std::int64_t end = target + length;
    const std::int64_t row_end = (end + row_tokens - 1) / row_tokens * row_tokens;
    for (std::int64_t i = end; i < row_end; ++i) rows.position_ids[i] = i - end;
  }
}

template void pack(std::span<const std::uint16_t>, const Placement&, std::int64_t, std::int64_t,
                   const Rows&);
template void pack(std::span<const std::int32_t>, const Placement&, std::int64_t, std::int64_t,
                   const Rows&);
template void pack(std::span<const std::uint32_t>, const Placement&, std::int64_t, std::int64_t,
                   const Rows&);
template void pack(std::span<const std::int64_t>, const Placement&, std::int64_t, std::int64_t,
                   const Rows&);

void check_placement(const Placement& pieces, std::int64_t num_tokens, std::int64_t num_targets) {
  for (std::size_t i = 0; i < pieces.length.size(); ++i) {
    const std::int64_t source = pieces.source[i];
    const std::int64_t target = pieces.target[i];
    const std::int64_t length = pieces.length[i];
    const bool inside = length >= 0 && source >= 0 && target >= 0 &&
                        length <= num_tokens - source && length <= num_targets - target;
    if (!inside) {
      throw std::out_of_range("piece " + std::to_string(i) + " of " +
                              std::to_string(pieces.length.size()) + " leaves its buffer");
    }
  }
}

}  // namespace moot
