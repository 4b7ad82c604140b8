// SPDX-License-Identifier: Apache-2.0
#include "permute.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

namespace nb = nanobind;
using Indices = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

void permute_in_place(Indices indices, std::uint64_t n, std::uint64_t key) {
  const std::span<std::int64_t> values(indices.data(), indices.size());
  for (const std::int64_t value : values) {
    if (value < 0 || static_cast<std::uint64_t>(value) >= n) {
      throw nb::index_error("index outside [0, n)");
    }
  }
  const nb::gil_scoped_release release;
  moot::permute(values, n, key);
}

}  // namespace

void bind_permute(nb::module_& m) {
  m.def("permute", &permute_in_place, nb::arg("indices").noconvert(), nb::arg("n"), nb::arg("key"),
        "Replace each index of [0, n) by its image under the permutation named by key, in place.");
  m.def("mix64", &moot::mix64, nb::arg("word"), "The finaliser of SplitMix64.");
}
