// SPDX-License-Identifier: Apache-2.0
// moot.loader._core: shard layout, permutation, cutting and packing. Each topic has its own file.
#include "cpu.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_mds(nb::module_&);
void bind_permute(nb::module_&);
void bind_cut(nb::module_&);

NB_MODULE(_core, m) {
  moot::require_cpu();
  m.doc() = "Native core of moot.loader";
  bind_mds(m);
  bind_permute(m);
  bind_cut(m);
}
