// SPDX-License-Identifier: Apache-2.0
#include "bind/bound_elements.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

namespace nb = nanobind;
using namespace nb::literals;

using Int32s = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Uint32s = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int64s = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<nb::numpy, const std::uint32_t, nb::ndim<1>>;
using Output = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Tables = std::vector<const BoundElements*>;

namespace {

template <typename Value, typename Array>
std::span<const Value> view(const Array& array) {
  return {array.data(), array.size()};
}

void make(BoundElements* self, Bytes buffer, Int64s begin, Uint32s count, const std::string& dtype,
          std::string where) {
  moot::Dtype type{};
  if (!moot::find_dtype(dtype, type)) throw nb::value_error(("unknown dtype " + dtype).c_str());
  moot::Elements table({buffer.data(), buffer.size()}, {begin.data(), begin.data() + begin.size()},
                       {count.data(), count.data() + count.size()}, type, {}, std::move(where));
  new (self) BoundElements{std::move(buffer), std::move(table)};
}

moot::Dtype dtype_of(const Output& out) {
  const nb::dlpack::dtype type = out.dtype();
  int family = -1;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt)) family = 0;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int)) family = 1;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float)) family = 2;
  const bool is_sized = type.bits == 8 || type.bits == 16 || type.bits == 32 || type.bits == 64;
  if (family < 0 || !is_sized || type.lanes != 1 || (family == 2 && type.bits == 8)) {
    throw nb::type_error("out must be an array of integers or floats of 8 to 64 bits");
  }
  return static_cast<moot::Dtype>(type.bits + family);
}

std::span<std::uint8_t> bytes_of(const Output& out) {
  return {static_cast<std::uint8_t*>(out.data()), out.nbytes()};
}

std::span<std::int64_t> integers_of(const std::optional<Output>& out, std::size_t size) {
  if (!out) return {};
  if (out->dtype() != nb::dtype<std::int64_t>()) throw nb::type_error("ids and positions are int64");
  if (out->size() != size) throw nb::value_error("the outputs must be equally long");
  return {static_cast<std::int64_t*>(out->data()), out->size()};
}

// `held` keeps every table, and so its buffer, alive.
std::vector<const moot::Elements*> tables_of(const Tables& held) {
  std::vector<const moot::Elements*> tables;
  tables.reserve(held.size());
  for (const BoundElements* bound : held) {
    if (bound == nullptr) throw nb::type_error("None is no table of elements");
    tables.push_back(&bound->table);
  }
  return tables;
}

moot::PieceList pieces_of(const Int32s& table, const Int32s& row, const Int64s& offset,
                          const Int64s& length) {
  return {view<std::int32_t>(table), view<std::int32_t>(row), view<std::int64_t>(offset),
          view<std::int64_t>(length)};
}

void gather(const Tables& tables, Int32s table, Int32s row, Int64s offset, Int64s length, Output out) {
  const std::vector<const moot::Elements*> held = tables_of(tables);
  const moot::Dtype dtype = dtype_of(out);
  const moot::PieceList pieces = pieces_of(table, row, offset, length);
  const nb::gil_scoped_release release;
  moot::gather(held, pieces, dtype, bytes_of(out));
}

void pack(const Tables& tables, Int32s table, Int32s row, Int64s offset, Int64s length, Int64s target,
          std::int64_t row_tokens, std::int64_t pad, std::size_t size, std::optional<Output> tokens,
          std::optional<Output> input_ids, std::optional<Output> labels,
          std::optional<Output> position_ids) {
  const std::vector<const moot::Elements*> held = tables_of(tables);
  moot::Rows rows{{}, moot::Dtype::u16, integers_of(input_ids, size), integers_of(labels, size),
                  integers_of(position_ids, size), size};
  if (tokens) {
    if (tokens->size() != size) throw nb::value_error("the outputs must be equally long");
    rows.tokens = bytes_of(*tokens);
    rows.token_dtype = dtype_of(*tokens);
  }
  const moot::PieceList pieces = pieces_of(table, row, offset, length);
  const nb::gil_scoped_release release;
  moot::pack(held, pieces, view<std::int64_t>(target), row_tokens, pad, rows);
}

}  // namespace

void bind_elements(nb::module_& m) {
  nb::exception<moot::ShardFault>(m, "ShardFault");
  nb::class_<BoundElements>(m, "Elements", "Where the elements of one column lie in a buffer.")
      .def("__init__", &make, "buffer"_a, "begin"_a, "count"_a, "dtype"_a, "where"_a,
           "Check that row i, `count[i]` elements from byte `begin[i]` on, lies in `buffer` (uint8 "
           "[n], kept alive).")
      .def_prop_ro("num_rows", [](const BoundElements& self) { return self.table.num_rows(); })
      .def_prop_ro("dtype", [](const BoundElements& self) {
        return std::string(moot::dtype_name(self.table.dtype()));
      }, "The type's name, equal for all rows; ShardFault where they differ.")
      .def_prop_ro("lengths", [](nb::handle_t<BoundElements> self) {
        const std::span<const std::uint32_t> count = nb::cast<BoundElements&>(self).table.count();
        return Counts(count.data(), {count.size()}, self);
      }, "Elements of each row: uint32 [n], a read-only view.");
  // Without noconvert a strided `out` would be copied, filled and thrown away.
  m.def("gather", &gather, "tables"_a, "table"_a, "row"_a, "offset"_a, "length"_a,
        "out"_a.noconvert(), "Copy pieces one after the other into `out`; releases the GIL.");
  m.def("pack", &pack, "tables"_a, "table"_a, "row"_a, "offset"_a, "length"_a, "target"_a,
        "row_tokens"_a, "pad"_a, "size"_a, "tokens"_a.noconvert().none() = nb::none(),
        "input_ids"_a.noconvert().none() = nb::none(), "labels"_a.noconvert().none() = nb::none(),
        "position_ids"_a.noconvert().none() = nb::none(),
        "Place pieces into rows of `row_tokens`, `size` tokens in all, and pad the rest.");
}
