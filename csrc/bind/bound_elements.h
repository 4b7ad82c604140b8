// SPDX-License-Identifier: Apache-2.0
// An Elements together with the buffer that it views, as Python holds it.
#pragma once

#include "elements.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

using Bytes = nanobind::ndarray<const std::uint8_t, nanobind::ndim<1>, nanobind::c_contig,
                                nanobind::device::cpu>;

struct BoundElements {
  Bytes buffer;
  moot::Elements table;
};
