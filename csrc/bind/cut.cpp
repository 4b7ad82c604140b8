// SPDX-License-Identifier: Apache-2.0
#include "cut.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <memory>
#include <stdexcept>

namespace nb = nanobind;
using Int64s = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstInt64s = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Owned = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;

namespace {

std::span<std::int64_t> view(const Int64s& array) { return {array.data(), array.size()}; }
std::span<const std::int64_t> view(const ConstInt64s& array) { return {array.data(), array.size()}; }

Owned to_numpy(std::vector<std::int64_t>&& values) {
  auto owner = std::make_unique<std::vector<std::int64_t>>(std::move(values));
  std::int64_t* data = owner->data();
  const std::size_t size = owner->size();
  nb::capsule capsule(owner.release(), [](void* p) noexcept {
    delete static_cast<std::vector<std::int64_t>*>(p);
  });
  return Owned(data, {size}, capsule);
}

moot::Slot slot(const Int64s& cursor, const ConstInt64s& lanes, const ConstInt64s& ahead) {
  if (lanes.size() == 0 || cursor.size() != 1 + 2 * lanes.size()) {
    throw nb::value_error("a cursor holds 1 + 2 * lanes integers, lanes >= 1");
  }
  return {view(cursor), view(lanes), view(ahead)};
}

nb::object pieces_or_none(bool enough, moot::Pieces&& pieces) {
  if (!enough) return nb::none();
  return nb::cast(std::make_tuple(to_numpy(std::move(pieces.position)),
                                  to_numpy(std::move(pieces.offset)),
                                  to_numpy(std::move(pieces.length))));
}

nb::object offer(Int64s cursor, ConstInt64s lanes, ConstInt64s ahead, std::int64_t num_pieces,
                 std::int64_t piece_tokens) {
  if (num_pieces < 0 || piece_tokens < 1) throw nb::value_error("piece_tokens must be positive");
  moot::Pieces pieces;
  const bool enough = moot::offer(slot(cursor, lanes, ahead), num_pieces, piece_tokens, pieces);
  return pieces_or_none(enough, std::move(pieces));
}

nb::object fill(Int64s cursor, ConstInt64s lanes, ConstInt64s ahead, std::int64_t row_tokens) {
  if (row_tokens < 1) throw nb::value_error("row_tokens must be positive");
  moot::Pieces pieces;
  const bool enough = moot::fill(slot(cursor, lanes, ahead), row_tokens, pieces);
  return pieces_or_none(enough, std::move(pieces));
}

struct PackArgs {
  ConstInt64s source, target, length;
  std::int64_t row_tokens, pad;
  Int64s input_ids, labels, position_ids;
};

template <typename Token>
void pack_as(const nb::ndarray<nb::c_contig, nb::device::cpu>& tokens, const PackArgs& args) {
  const std::span<const Token> source(static_cast<const Token*>(tokens.data()), tokens.size());
  const moot::Placement pieces{view(args.source), view(args.target), view(args.length)};
  const moot::Rows rows{view(args.input_ids), view(args.labels), view(args.position_ids)};
  const nb::gil_scoped_release release;
  moot::check_placement(pieces, static_cast<std::int64_t>(source.size()),
                        static_cast<std::int64_t>(rows.input_ids.size()));
  moot::pack(source, pieces, args.row_tokens, args.pad, rows);
}

void pack(nb::ndarray<nb::c_contig, nb::device::cpu> tokens, ConstInt64s source, ConstInt64s target,
          ConstInt64s length, std::int64_t row_tokens, std::int64_t pad, Int64s input_ids,
          Int64s labels, Int64s position_ids) {
  const bool equal = source.size() == target.size() && source.size() == length.size() &&
                     input_ids.size() == labels.size() && labels.size() == position_ids.size();
  if (!equal || row_tokens < 1) throw nb::value_error("pack: arrays of unequal length");
  const PackArgs args{source, target, length, row_tokens, pad, input_ids, labels, position_ids};
  if (tokens.dtype() == nb::dtype<std::uint16_t>()) return pack_as<std::uint16_t>(tokens, args);
  if (tokens.dtype() == nb::dtype<std::int32_t>()) return pack_as<std::int32_t>(tokens, args);
  if (tokens.dtype() == nb::dtype<std::uint32_t>()) return pack_as<std::uint32_t>(tokens, args);
  if (tokens.dtype() == nb::dtype<std::int64_t>()) return pack_as<std::int64_t>(tokens, args);
  throw nb::type_error("pack: tokens must be uint16, int32, uint32 or int64");
}

}  // namespace

void bind_cut(nb::module_& m) {
  m.def("offer", &offer, nb::arg("cursor").noconvert(), nb::arg("lane_lengths"), nb::arg("ahead"),
        nb::arg("num_pieces"), nb::arg("piece_tokens"),
        "Cut the next num_pieces pieces of a slot; None when `ahead` is too short.");
  m.def("fill", &fill, nb::arg("cursor").noconvert(), nb::arg("lane_lengths"), nb::arg("ahead"),
        nb::arg("row_tokens"),
        "Cut pieces that fill one row a lane; None when `ahead` is too short.");
  m.def("pack", &pack, nb::arg("tokens"), nb::arg("source"), nb::arg("target"), nb::arg("length"),
        nb::arg("row_tokens"), nb::arg("pad"), nb::arg("input_ids").noconvert(),
        nb::arg("labels").noconvert(), nb::arg("position_ids").noconvert(),
        "Place pieces of tokens into rows and write input_ids, labels and position_ids.");
}
