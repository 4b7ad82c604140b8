// SPDX-License-Identifier: Apache-2.0
#include "ngram_log_ratio.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

namespace nb = nanobind;

namespace {

template <class T>
using Vector = nb::ndarray<nb::numpy, T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<T> span_of(const Vector<T>& array) {
  return {array.data(), array.shape(0)};
}

void require(bool fits, const char* message) {
  if (!fits) throw std::invalid_argument(message);
}

moot::NgramRule make_rule(unsigned orders, std::size_t buckets) {
  require(orders != 0 && (orders & ~0b1110u) == 0, "orders must be a set of bits 1, 2, 3");
  require(buckets > 0 && (buckets & (buckets - 1)) == 0 && buckets <= std::size_t{1} << 31,
          "there must be a power of two buckets, at most 2**31");
  return {orders, buckets};
}

template <class Token>
void run(Vector<const Token> tokens, Vector<const std::int64_t> cu_seqlens,
         Vector<const std::int32_t> table, unsigned orders, Vector<double> out, std::size_t start,
         std::size_t stop) {
  const moot::NgramRule rule = make_rule(orders, table.shape(0));
  require(out.shape(0) + 1 == cu_seqlens.shape(0), "out must have an entry for each document");
  nb::gil_scoped_release unlocked;
  moot::ngram_log_ratio<Token>(span_of(tokens), span_of(cu_seqlens), rule, table.data(),
                               out.data(), start, stop);
}

template <class Token>
void count(Vector<const Token> tokens, Vector<const std::int64_t> cu_seqlens, unsigned orders,
           Vector<std::int64_t> counts, std::size_t start, std::size_t stop) {
  const moot::NgramRule rule = make_rule(orders, counts.shape(0));
  nb::gil_scoped_release unlocked;
  moot::count_ngrams<Token>(span_of(tokens), span_of(cu_seqlens), rule, counts.data(), start,
                            stop);
}

template <class Token>
void bind_token(nb::module_& m) {
  using namespace nb::literals;
  m.def("ngram_log_ratio", &run<Token>, "tokens"_a.noconvert(), "cu_seqlens"_a.noconvert(),
        "table"_a.noconvert(), "orders"_a, "out"_a.noconvert(), "start"_a, "stop"_a,
        "Sum the table over the n-grams of documents [start, stop), without the GIL.");
  m.def("count_ngrams", &count<Token>, "tokens"_a.noconvert(), "cu_seqlens"_a.noconvert(),
        "orders"_a, "counts"_a.noconvert(), "start"_a, "stop"_a,
        "Add the n-grams of documents [start, stop) to counts, without the GIL.");
}

}  // namespace

void bind_ngram_log_ratio(nb::module_& m) {
  bind_token<std::uint16_t>(m);
  bind_token<std::int32_t>(m);
  bind_token<std::int64_t>(m);
}
