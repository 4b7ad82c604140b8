// SPDX-License-Identifier: Apache-2.0
#include "gather.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>

namespace nb = nanobind;

namespace {

template <class T, int kDims>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
using Counts = std::optional<Array<const std::int32_t, 1>>;

void require(bool fits, const char* message) {
  if (!fits) throw std::invalid_argument(message);
}

/// The arrays that say which documents are wanted, held alive, and the core's view of them.
struct BoundChosen {
  Array<const std::int64_t, 1> cu_seqlens;
  Array<const std::int32_t, 2> indices;
  Counts num_chosen;
  std::int64_t documents_per_slot;

  BoundChosen(Array<const std::int64_t, 1> cu_seqlens_, Array<const std::int32_t, 2> indices_,
              Counts num_chosen_, std::int64_t documents_per_slot_)
      : cu_seqlens(cu_seqlens_), indices(indices_), num_chosen(num_chosen_),
        documents_per_slot(documents_per_slot_) {
    require(cu_seqlens.shape(0) > 0, "cu_seqlens must have at least one entry");
    require(!num_chosen || num_chosen->shape(0) == indices.shape(0), "num_chosen must be [S]");
    require(documents_per_slot >= 0 && documents_per_slot < std::int64_t{1} << 31,
            "documents_per_slot must be in [0, 2**31)");
  }

  /// Whether every document lies within so many tokens.
  bool lies_within(std::size_t num_tokens) const {
    std::int64_t least = 0;
    for (std::size_t i = 0; i < cu_seqlens.shape(0); ++i) {
      if (cu_seqlens(i) < least) return false;
      least = cu_seqlens(i);
    }
    return static_cast<std::size_t>(least) <= num_tokens;
  }

  moot::ChosenDocuments view() const {
    return {{cu_seqlens.data(), cu_seqlens.shape(0)}, indices.data(),
            num_chosen ? num_chosen->data() : nullptr, indices.shape(1), documents_per_slot};
  }
};

moot::PackRule make_rule(std::int64_t row_tokens, std::int64_t pad, bool is_cut) {
  require(row_tokens > 0, "row_tokens must be positive");
  return {row_tokens, pad, is_cut};
}

template <class Token, class Out>
void run(Array<const Token, 1> tokens, const BoundChosen& chosen, const moot::PackRule& rule,
         Array<Out, 2> packed, Array<std::int32_t, 2> cu_seqlens, Array<std::int64_t, 2> positions,
         std::size_t start, std::size_t stop) {
  const std::size_t slots = chosen.indices.shape(0);
  const std::size_t capacity = packed.shape(1);
  const bool has_positions = positions.shape(1) != 0;
  require(packed.shape(0) == slots && capacity < std::size_t{1} << 31, "packed must be [S, L]");
  require(cu_seqlens.shape(0) == slots && cu_seqlens.shape(1) == chosen.indices.shape(1) + 1,
          "cu_seqlens must be [S, K+1]");
  require(!has_positions || (positions.shape(0) == slots && positions.shape(1) == capacity),
          "positions must be [S, L] or [S, 0]");
  require(start <= stop && stop <= slots, "start and stop leave the slots");
  const moot::PackedOutput<Out> out{packed.data(), cu_seqlens.data(),
                                    has_positions ? positions.data() : nullptr,
                                    static_cast<std::int64_t>(capacity)};
  nb::gil_scoped_release unlocked;
  require(chosen.lies_within(tokens.shape(0)), "cu_seqlens descends or leaves the tokens");
  moot::gather_documents<Token, Out>(tokens.data(), chosen.view(), rule, out, start, stop);
}

template <class Token, class Out>
void bind_run(nb::module_& m) {
  using namespace nb::literals;
  m.def("gather_documents", &run<Token, Out>, "tokens"_a.noconvert(), "chosen"_a, "rule"_a,
        "packed"_a.noconvert(), "cu_seqlens"_a.noconvert(), "positions"_a.noconvert(), "start"_a,
        "stop"_a, "Pack the documents of slots [start, stop), without the GIL, in this thread.");
}

}  // namespace

void bind_gather(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<BoundChosen>(m, "ChosenDocuments", "Views of what says which documents are wanted.")
      .def(nb::init<Array<const std::int64_t, 1>, Array<const std::int32_t, 2>, Counts,
                    std::int64_t>(),
           "cu_seqlens"_a.noconvert(), "indices"_a.noconvert(), "num_chosen"_a.none().noconvert(),
           "documents_per_slot"_a);
  nb::class_<moot::PackRule>(m, "PackRule", "How documents become slots.")
      .def(nb::new_(&make_rule), "row_tokens"_a, "pad"_a, "is_cut"_a);
  bind_run<std::uint16_t, std::uint16_t>(m);
  bind_run<std::uint16_t, std::int32_t>(m);
  bind_run<std::uint16_t, std::int64_t>(m);
  bind_run<std::int32_t, std::int32_t>(m);
  bind_run<std::int32_t, std::int64_t>(m);
  bind_run<std::int64_t, std::int64_t>(m);
}
