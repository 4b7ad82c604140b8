// SPDX-License-Identifier: Apache-2.0
// moot.loader._core: where elements lie, shard layout, order, plan. Each topic has its own file.
#include "cpu.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_elements(nb::module_&);
void bind_mds(nb::module_&);
void bind_order(nb::module_&);

NB_MODULE(_core, m) {
  moot::require_cpu();
  m.doc() = "Native core of moot.loader";
  bind_elements(m);
  bind_mds(m);
  bind_order(m);
}
