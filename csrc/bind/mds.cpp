// SPDX-License-Identifier: Apache-2.0
#include "mds.h"
#include "bind/bound_elements.h"

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

using Int64s = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Spans = nb::ndarray<nb::numpy, std::int64_t, nb::shape<-1, 2>>;
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
  std::int64_t* data = values.release();
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::int64_t*>(p); });
  return Spans(data, {rows.size(), 2}, owner);
}

BoundElements elements(const MdsShard& self, const std::string& column) {
  const std::size_t id = self.layout.column(column);
  const nb::gil_scoped_release release;
  return {self.buffer, self.layout.elements(id)};
}

}  // namespace

void bind_mds(nb::module_& m) {
  nb::class_<MdsShard>(m, "MdsShard", "The checked layout of a raw MDS shard, and its buffer.")
      .def(nb::init<Bytes, const std::vector<ColumnSpec>&, std::string, std::uint64_t>(),
           "buffer"_a, "columns"_a, "name"_a, "num_samples"_a,
           "Parse and check `buffer` (uint8 [n], kept alive); columns are (name, encoding, size).")
      .def_prop_ro("num_samples", [](const MdsShard& self) { return self.layout.num_samples(); })
      .def_prop_ro("config_span", [](const MdsShard& self) {
        return std::pair(self.layout.config().begin, self.layout.config().end);
      }, "Half-open byte range of the JSON config.")
      .def("elements", &elements, "column"_a, "Where the elements of a column lie, checked.")
      .def("spans", &spans, "column"_a, "rows"_a, "Byte ranges of a column: int64 [m, 2].");
}
