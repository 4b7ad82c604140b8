// SPDX-License-Identifier: Apache-2.0
#include "novelty.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "novelty_tile.h"

namespace moot {
namespace {

constexpr std::size_t kBlockRows = 336;  // a multiple of both widths' rows; 1 MB at dim 768
constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float widen(float value) { return value; }
float widen(Brain value) { return bits_to_float(static_cast<std::uint32_t>(value.bits) << 16); }

/// The exponent is moved by a product with 2^112, which also makes denormals right.
float widen(Half value) {
  const std::uint32_t magnitude = (value.bits & 0x7FFFu) << 13;
  const std::uint32_t special = (value.bits & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0u;
  const float scaled = bits_to_float(magnitude) * 0x1p112f;
  std::uint32_t bits;
  std::memcpy(&bits, &scaled, sizeof(bits));
  return bits_to_float(bits | special | static_cast<std::uint32_t>(value.bits & 0x8000u) << 16);
}

const NoveltyKernel& pick_kernel([[maybe_unused]] bool may_be_wide) {
#if defined(__x86_64__)
  if (may_be_wide && kWideNoveltyKernel.run != nullptr && __builtin_cpu_supports("avx512f")) {
    return kWideNoveltyKernel;
  }
#endif
  return kNoveltyKernel;
}

/// Copy count rows of [., dim] to packed [dim, width] as fp32, with zeros for the rows that lack.
template <class Element>
void pack(const Element* rows, std::size_t count, std::size_t dim, std::size_t width,
          float* packed) {
  if (count < width) std::fill_n(packed, dim * width, 0.0f);
  for (std::size_t d = 0; d < dim; ++d) {
    for (std::size_t r = 0; r < count; ++r) packed[d * width + r] = widen(rows[r * dim + d]);
  }
}

/// 1 / length; 0 for length 0, NaN where the squared length leaves fp32.
template <class Element>
float inverse_norm(const Element* vector, std::size_t dim) {
  double sum = 0.0;
  for (std::size_t d = 0; d < dim; ++d) {
    const double value = widen(vector[d]);
    sum += value * value;
  }
  const auto square = static_cast<float>(sum);
  if (!std::isfinite(square)) return kNothing;
  return square > 0.0f ? static_cast<float>(1.0 / std::sqrt(sum)) : 0.0f;
}

/// Buffers of a call, for one block of rows at a time.
struct Work {
  std::vector<float> rows, columns, inverse_norms, best;
  std::vector<std::int32_t> best_panel;

  Work(const NoveltyKernel& kernel, std::size_t num_rows, std::size_t dim)
      : rows(num_rows * dim), columns(kernel.columns * dim), inverse_norms(kernel.columns),
        best(num_rows * kernel.columns), best_panel(num_rows * kernel.columns) {}
};

/// Compare the packed rows with every panel of the bank.
template <class Element>
void sweep(const NoveltyKernel& kernel, const CentroidBank<Element>& bank, std::size_t num_rows,
           Work& work) {
  const std::size_t width = kernel.columns;
  const std::size_t total = bank.inverse_norms.size();
  std::fill(work.best.begin(), work.best.end(), -std::numeric_limits<float>::infinity());
  std::fill(work.best_panel.begin(), work.best_panel.end(), 0);
  for (std::size_t first = 0; first < total; first += width) {
    const std::size_t count = std::min(width, total - first);
    pack(bank.centroids + first * bank.dim, count, bank.dim, width, work.columns.data());
    std::fill(work.inverse_norms.begin(), work.inverse_norms.end(), kNothing);
    std::copy_n(bank.inverse_norms.data() + first, count, work.inverse_norms.begin());
    for (std::size_t row = 0; row < num_rows; row += kernel.rows) {
      kernel.run({work.rows.data() + row * bank.dim, work.columns.data(), bank.dim,
                  work.inverse_norms.data(), static_cast<std::int32_t>(first / width),
                  work.best.data() + row * width, work.best_panel.data() + row * width});
    }
  }
}

/// Reduce the lanes of a row: the largest, of several the one whose centroid comes first.
void finish_row(const Work& work, std::size_t width, std::size_t row, float scale,
                const NoveltyOutput& out, std::size_t place) {
  const float* best = work.best.data() + row * width;
  const std::int32_t* best_panel = work.best_panel.data() + row * width;
  std::size_t lane = 0;
  for (std::size_t c = 1; c < width; ++c) {
    const bool is_first = best_panel[c] < best_panel[lane];
    if (best[c] > best[lane] || (best[c] == best[lane] && is_first)) lane = c;
  }
  const auto panel = static_cast<std::size_t>(best_panel[lane]);
  out.similarity[place] = best[lane] * scale;
  out.nearest[place] = static_cast<std::int32_t>(panel * width + lane);
}

}  // namespace

template <class Element>
void novelty(const Element* vectors, const CentroidBank<Element>& bank, const NoveltyOutput& out,
             std::size_t start, std::size_t stop, bool may_be_wide) {
  if (start > stop) throw std::invalid_argument("start lies behind stop");
  const NoveltyKernel& kernel = pick_kernel(may_be_wide);
  const std::size_t most = std::min(kBlockRows, stop - start);
  Work work(kernel, (most + kernel.rows - 1) / kernel.rows * kernel.rows, bank.dim);
  for (std::size_t first = start; first < stop; first += kBlockRows) {
    const std::size_t num_rows = std::min(kBlockRows, stop - first);
    for (std::size_t row = 0; row < num_rows; row += kernel.rows) {
      pack(vectors + (first + row) * bank.dim, std::min(kernel.rows, num_rows - row), bank.dim,
           kernel.rows, work.rows.data() + row * bank.dim);
    }
    sweep(kernel, bank, num_rows, work);
    for (std::size_t row = 0; row < num_rows; ++row) {
      const float scale = inverse_norm(vectors + (first + row) * bank.dim, bank.dim);
      finish_row(work, kernel.columns, row, scale, out, first + row);
    }
  }
}

#define MOOT_INSTANTIATE(Element)                                                                 \
  template void novelty<Element>(const Element*, const CentroidBank<Element>&,                    \
                                 const NoveltyOutput&, std::size_t, std::size_t, bool);
MOOT_INSTANTIATE(float)
MOOT_INSTANTIATE(Half)
MOOT_INSTANTIATE(Brain)
#undef MOOT_INSTANTIATE

}  // namespace moot
