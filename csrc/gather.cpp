// SPDX-License-Identifier: Apache-2.0
#include "gather.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>

namespace moot {
namespace {

template <class Token, class Out>
void copy_tokens(const Token* from, Out* to, std::int64_t count) {
  if constexpr (std::is_same_v<Token, Out>) {
    if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(Out));
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<Out>(from[i]);
  }
}

/// Number the tokens [begin, end) of a slot from 0, and from 0 again at every row.
void count_positions(std::int64_t* positions, std::int64_t begin, std::int64_t end,
                     std::int64_t row_tokens) {
  while (begin < end) {
    const std::int64_t stop = std::min(end, (begin / row_tokens + 1) * row_tokens);
    std::iota(positions + begin, positions + stop, std::int64_t{0});
    begin = stop;
  }
}

/// The document that an entry names, or -1.
std::int64_t document_of(const ChosenDocuments& chosen, std::size_t slot, std::int64_t index) {
  const auto num_documents = static_cast<std::int64_t>(chosen.cu_seqlens.size()) - 1;
  const std::int64_t per_slot = chosen.documents_per_slot;
  if (index < 0 || (per_slot > 0 && index >= per_slot)) return -1;
  const std::int64_t document = static_cast<std::int64_t>(slot) * per_slot + index;
  return document < num_documents ? document : -1;
}

template <class Token, class Out>
void pack_slot(const Token* tokens, const ChosenDocuments& chosen, const PackRule& rule,
               const PackedOutput<Out>& out, std::size_t slot) {
  const auto most = static_cast<std::int64_t>(chosen.max_chosen);
  const auto row = static_cast<std::int64_t>(slot);
  const std::int32_t* indices = chosen.indices + row * most;
  const std::int64_t count =
      chosen.num_chosen == nullptr ? most : std::min<std::int64_t>(chosen.num_chosen[slot], most);
  Out* packed = out.tokens + row * out.capacity;
  std::int64_t* positions = out.positions == nullptr ? nullptr : out.positions + row * out.capacity;
  std::int32_t* borders = out.cu_seqlens + row * (most + 1);
  std::int64_t at = 0;
  bool is_full = false;
  *borders++ = 0;
  for (std::int64_t entry = 0; entry < most; ++entry) {
    const std::int64_t document = entry < count ? document_of(chosen, slot, indices[entry]) : -1;
    if (document >= 0 && !is_full) {
      const std::int64_t begin = chosen.cu_seqlens[static_cast<std::size_t>(document)];
      std::int64_t length = chosen.cu_seqlens[static_cast<std::size_t>(document) + 1] - begin;
      is_full = length > out.capacity - at;
      if (is_full) length = rule.is_cut ? out.capacity - at : 0;
      copy_tokens(tokens + begin, packed + at, length);
      if (positions != nullptr) count_positions(positions, at, at + length, rule.row_tokens);
      at += length;
    }
    *borders++ = static_cast<std::int32_t>(at);
  }
  std::fill(packed + at, packed + out.capacity, static_cast<Out>(rule.pad));
  if (positions != nullptr) count_positions(positions, at, out.capacity, rule.row_tokens);
}

}  // namespace

template <class Token, class Out>
void gather_documents(const Token* tokens, const ChosenDocuments& chosen, const PackRule& rule,
                      const PackedOutput<Out>& out, std::size_t start, std::size_t stop) {
  for (std::size_t slot = start; slot < stop; ++slot) pack_slot(tokens, chosen, rule, out, slot);
}

#define MOOT_INSTANTIATE(Token, Out)                                                     \
  template void gather_documents<Token, Out>(const Token*, const ChosenDocuments&,       \
                                             const PackRule&, const PackedOutput<Out>&,  \
                                             std::size_t, std::size_t)
MOOT_INSTANTIATE(std::uint16_t, std::uint16_t);
MOOT_INSTANTIATE(std::uint16_t, std::int32_t);
MOOT_INSTANTIATE(std::uint16_t, std::int64_t);
MOOT_INSTANTIATE(std::int32_t, std::int32_t);
MOOT_INSTANTIATE(std::int32_t, std::int64_t);
MOOT_INSTANTIATE(std::int64_t, std::int64_t);
#undef MOOT_INSTANTIATE

}  // namespace moot
