// SPDX-License-Identifier: Apache-2.0
// gather_documents on the CPU: chosen documents one after the other (docs/ops/gather_documents.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moot {

/// A view of which documents are wanted; all memory belongs to the caller.
struct ChosenDocuments {
  std::span<const std::int64_t> cu_seqlens;  ///< [documents + 1], not descending, within the tokens
  const std::int32_t* indices;               ///< [slots, max_chosen]; negative: nothing
  const std::int32_t* num_chosen;            ///< [slots] entries that count, or null: all
  std::size_t max_chosen;
  std::int64_t documents_per_slot;  ///< entry i of slot s names s * documents_per_slot + i
};

/// How documents become slots.
struct PackRule {
  std::int64_t row_tokens;  ///< > 0; positions restart at its multiples
  std::int64_t pad;
  bool is_cut;  ///< the first document that passes the end is cut; else it is left out
};

/// Where results go.
template <class Out>
struct PackedOutput {
  Out* tokens;              ///< [slots, capacity]
  std::int32_t* cu_seqlens;  ///< [slots, max_chosen + 1]
  std::int64_t* positions;  ///< [slots, capacity], or null: not wanted
  std::int64_t capacity;    ///< tokens of a slot, below 2**31
};

/// Pack the documents of slots [start, stop). An index that names no document stands for nothing.
///
/// Token and Out are each of uint16_t, int32_t, int64_t, Out no narrower. Single-threaded; calls over
/// disjoint ranges may run at the same time. Costs a copy of what is written; allocates nothing.
template <class Token, class Out>
void gather_documents(const Token* tokens, const ChosenDocuments& chosen, const PackRule& rule,
                      const PackedOutput<Out>& out, std::size_t start, std::size_t stop);

}  // namespace moot
