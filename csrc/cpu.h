// SPDX-License-Identifier: Apache-2.0
// The instructions that the library is compiled for. Include it in binding files only: they are
// compiled for any x86-64, so the check itself runs on every machine.
#pragma once

#include <stdexcept>

namespace moot {

/// Throw std::runtime_error (an ImportError at import) unless the machine has AVX2, BMI2 and FMA.
/// Does nothing elsewhere than on x86-64.
static inline void require_cpu() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") ||
      !__builtin_cpu_supports("fma")) {
    throw std::runtime_error(
        "moot's native code needs an x86-64-v3 processor (AVX2, BMI2, FMA: Haswell or Zen and "
        "later), and this machine lacks one of them; build from source with the flags in "
        "CMakeLists.txt lowered, or use a newer machine");
  }
#endif
}

}  // namespace moot
