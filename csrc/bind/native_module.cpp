// SPDX-License-Identifier: Apache-2.0
// moot.triton_kernels._native: the CPU side of the ops. Each topic has its own file.
#include <nanobind/nanobind.h>

#include "cpu.h"

namespace nb = nanobind;

void bind_gather(nb::module_&);
void bind_ngram_log_ratio(nb::module_&);
void bind_novelty(nb::module_&);
void bind_scores(nb::module_&);
void bind_select(nb::module_&);

NB_MODULE(_native, m) {
  moot::require_cpu();
  m.doc() = "Native routines of moot.triton_kernels";
  bind_gather(m);
  bind_ngram_log_ratio(m);
  bind_novelty(m);
  bind_scores(m);
  bind_select(m);
}
