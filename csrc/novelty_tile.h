// SPDX-License-Identifier: Apache-2.0
// The inner loop of novelty, for one width of vector registers.
//
// Included by one source file a width, which is compiled for that width: so nothing of the standard
// library may be called here, or the linker could keep this width's copy of it for every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moot {

/// What a tile reads and updates: kRows vectors against kColumns centroids.
struct NoveltyTile {
  const float* rows;           ///< [dim, kRows]
  const float* columns;        ///< [dim, kColumns]
  std::size_t dim;
  const float* inverse_norms;  ///< [kColumns]; NaN where there is no centroid: NaN is never better
  std::int32_t panel;          ///< which kColumns centroids these are
  float* best;                 ///< [kRows, kColumns] largest so far, a lane for each column
  std::int32_t* best_panel;    ///< [kRows, kColumns] the panel that it is from
};

/// A width of the inner loop, and what it takes at a time.
struct NoveltyKernel {
  std::size_t rows;
  std::size_t columns;
  void (*run)(const NoveltyTile&);
};

inline constexpr std::size_t kDepth = 256;  // products summed before they join a sum: less rounding

/// AVX2, or whatever the library is compiled for.
extern const NoveltyKernel kNoveltyKernel;
/// AVX-512; run is null where the compiler cannot make it.
extern const NoveltyKernel kWideNoveltyKernel;

namespace {

template <int kBytes>
struct Lanes {
  typedef float Type __attribute__((vector_size(kBytes)));
  static constexpr int kCount = kBytes / 4;
};

/// dots[r, c] += sum over d in [0, depth) of rows[d, r] * columns[d, c]; sums stay in registers.
template <int kBytes, int kRows, int kVectors>
inline void add_dots(const float* rows, const float* columns, std::size_t depth, float* dots) {
  using Vector = typename Lanes<kBytes>::Type;
  constexpr int kColumns = kVectors * Lanes<kBytes>::kCount;
  Vector sums[kRows][kVectors] = {};
  for (std::size_t d = 0; d < depth; ++d) {
    Vector line[kVectors];
    __builtin_memcpy(line, columns + d * kColumns, sizeof(line));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float value = rows[d * kRows + static_cast<std::size_t>(r)];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += value * line[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    Vector line[kVectors];
    __builtin_memcpy(line, dots + r * kColumns, sizeof(line));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) line[v] += sums[r][v];
    __builtin_memcpy(dots + r * kColumns, line, sizeof(line));
  }
}

template <int kBytes, int kRows, int kVectors>
void run_tile(const NoveltyTile& tile) {
  constexpr int kColumns = kVectors * Lanes<kBytes>::kCount;
  float dots[kRows * kColumns] = {};
  for (std::size_t d = 0; d < tile.dim; d += kDepth) {
    const std::size_t left = tile.dim - d;
    add_dots<kBytes, kRows, kVectors>(tile.rows + d * kRows, tile.columns + d * kColumns,
                                      left < kDepth ? left : kDepth, dots);
  }
  for (int r = 0; r < kRows; ++r) {
    float* best = tile.best + r * kColumns;
    std::int32_t* best_panel = tile.best_panel + r * kColumns;
    for (int c = 0; c < kColumns; ++c) {
      const float value = dots[r * kColumns + c] * tile.inverse_norms[c];
      const bool is_better = value > best[c];
      best[c] = is_better ? value : best[c];
      best_panel[c] = is_better ? tile.panel : best_panel[c];
    }
  }
}

}  // namespace
}  // namespace moot
