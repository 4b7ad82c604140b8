// SPDX-License-Identifier: Apache-2.0
#include "mds.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <tuple>

namespace nb = nanobind;
using namespace nb::literals;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int32s = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int64s = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Lengths = nb::ndarray<nb::numpy, std::uint32_t, nb::ndim<1>>;
using Spans = nb::ndarray<nb::numpy, std::int64_t, nb::shape<-1, 2>>;
using Output = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ColumnSpec = std::tuple<std::string, std::string, std::optional<std::uint32_t>>;

namespace {

// The layout together with the buffer it views.
struct MdsShard {
  Bytes buffer;
  moot::MdsLayout layout;

  MdsShard(Bytes bytes, const std::vector<ColumnSpec>& columns, std::string name,
           std::uint64_t num_samples)
      : buffer(std::move(bytes)),
        layout({buffer.data(), buffer.size()}, to_columns(columns), std::move(name), num_samples) {}

  static std::vector<moot::MdsColumn> to_columns(const std::vector<ColumnSpec>& specs) {
    std::vector<moot::MdsColumn> columns;
    for (const auto& [name, encoding, fixed_bytes] : specs) {
      columns.push_back({name, encoding, fixed_bytes.value_or(0)});
    }
    return columns;
  }
};

template <typename Value>
nb::capsule own(std::unique_ptr<Value[]>& values) {
  nb::capsule owner(values.get(), [](void* p) noexcept { delete[] static_cast<Value*>(p); });
  values.release();
  return owner;
}

template <typename Value, typename Array>
std::span<const Value> view(const Array& array) {
  return {array.data(), array.size()};
}

Lengths lengths(const MdsShard& self, const std::string& column) {
  const std::size_t id = self.layout.column(column);
  const std::size_t n = self.layout.num_samples();
  auto values = std::make_unique<std::uint32_t[]>(n);
  {
    nb::gil_scoped_release release;
    self.layout.lengths(id, {values.get(), n});
  }
  std::uint32_t* data = values.get();
  return Lengths(data, {n}, own(values));
}

Spans spans(const MdsShard& self, const std::string& column, Int64s rows) {
  const std::size_t id = self.layout.column(column);
  auto values = std::make_unique<std::int64_t[]>(2 * rows.size());
  {
    nb::gil_scoped_release release;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::int64_t row = rows.data()[i];
      if (row < 0) throw moot::ShardFault(self.layout.shard() + ": no sample " + std::to_string(row));
      const moot::ByteRange cell = self.layout.cell(static_cast<std::uint64_t>(row), id);
      values[2 * i] = static_cast<std::int64_t>(cell.begin);
      values[2 * i + 1] = static_cast<std::int64_t>(cell.end);
    }
  }
  std::int64_t* data = values.get();
  return Spans(data, {rows.size(), 2}, own(values));
}

moot::Dtype output_dtype(const Output& out) {
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

void gather(const std::vector<nb::object>& shards, const std::string& column, Int32s shard_pos,
            Int32s rows, Int64s starts, Int64s stops, Output out) {
  std::vector<moot::Source> sources;
  sources.reserve(shards.size());
  for (const nb::object& shard : shards) {
    const auto& typed = nb::cast<const MdsShard&>(shard);
    sources.push_back({&typed.layout, typed.layout.column(column)});
  }
  const moot::Dtype dtype = output_dtype(out);
  const moot::PieceList pieces{view<std::int32_t>(shard_pos), view<std::int32_t>(rows),
                               view<std::int64_t>(starts), view<std::int64_t>(stops)};
  const std::span<std::uint8_t> target{static_cast<std::uint8_t*>(out.data()), out.nbytes()};
  nb::gil_scoped_release release;  // `shards` keeps every shard, and so its buffer, alive
  moot::gather(sources, pieces, dtype, target);
}

}  // namespace

void bind_mds(nb::module_& m) {
  nb::exception<moot::ShardFault>(m, "ShardFault");
  nb::class_<MdsShard>(m, "MdsShard", "The checked layout of a raw MDS shard, and its buffer.")
      .def(nb::init<Bytes, const std::vector<ColumnSpec>&, std::string, std::uint64_t>(),
           "buffer"_a, "columns"_a, "name"_a, "num_samples"_a,
           "Parse and check `buffer` (uint8 [n], kept alive); columns are (name, encoding, size).")
      .def_prop_ro("num_samples", [](const MdsShard& self) { return self.layout.num_samples(); })
      .def_prop_ro("config_span", [](const MdsShard& self) {
        return std::pair(self.layout.config().begin, self.layout.config().end);
      }, "Half-open byte range of the JSON config.")
      .def("lengths", &lengths, "column"_a, "Elements of each sample: uint32 [n].")
      .def("spans", &spans, "column"_a, "rows"_a, "Byte ranges of a column: int64 [m, 2].");
  // Without noconvert a strided `out` would be copied, filled and thrown away.
  m.def("gather", &gather, "shards"_a, "column"_a, "shard_pos"_a, "rows"_a, "starts"_a, "stops"_a,
        "out"_a.noconvert(), "Copy element ranges of many samples into `out`; releases the GIL.");
}
