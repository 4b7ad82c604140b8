// SPDX-License-Identifier: Apache-2.0
#include "novelty.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

namespace nb = nanobind;

namespace {

template <class T, int kDims>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;

void require(bool fits, const char* message) {
  if (!fits) throw std::invalid_argument(message);
}

/// Element is what the bits of Stored mean.
template <class Element, class Stored>
void run(Array<const Stored, 2> vectors, Array<const Stored, 2> centroids,
         Array<const float, 1> inverse_norms, Array<float, 1> similarity,
         Array<std::int32_t, 1> nearest, std::size_t start, std::size_t stop, bool may_be_wide) {
  const std::size_t total = centroids.shape(0);
  require(centroids.shape(1) > 0 && vectors.shape(1) == centroids.shape(1),
          "vectors and centroids must have the same number of columns, at least one");
  require(total > 0 && total < std::size_t{1} << 31 && inverse_norms.shape(0) == total,
          "there must be 1 to 2**31 - 1 centroids, an inverse norm for each");
  require(similarity.shape(0) == vectors.shape(0) && nearest.shape(0) == vectors.shape(0),
          "similarity and nearest must have an entry for each vector");
  require(start <= stop && stop <= vectors.shape(0), "start and stop leave the vectors");
  const moot::CentroidBank<Element> bank{reinterpret_cast<const Element*>(centroids.data()),
                                         {inverse_norms.data(), total},
                                         centroids.shape(1)};
  const moot::NoveltyOutput out{similarity.data(), nearest.data()};
  nb::gil_scoped_release unlocked;
  moot::novelty<Element>(reinterpret_cast<const Element*>(vectors.data()), bank, out, start, stop,
                         may_be_wide);
}

template <class Element, class Stored>
void bind_element(nb::module_& m, const char* name) {
  using namespace nb::literals;
  m.def(name, &run<Element, Stored>, "vectors"_a.noconvert(), "centroids"_a.noconvert(),
        "inverse_norms"_a.noconvert(), "similarity"_a.noconvert(), "nearest"_a.noconvert(),
        "start"_a, "stop"_a, "may_be_wide"_a = true,
        "Find the nearest centroid of vectors [start, stop), without the GIL, in this thread.");
}

}  // namespace

void bind_novelty(nb::module_& m) {
  bind_element<float, float>(m, "novelty_fp32");
  bind_element<moot::Half, std::uint16_t>(m, "novelty_fp16");
  bind_element<moot::Brain, std::uint16_t>(m, "novelty_bf16");
}
