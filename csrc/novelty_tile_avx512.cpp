// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512 where the processor is an x86-64; novelty.cpp asks the machine before it calls.
#include "novelty_tile.h"

namespace moot {

#if defined(__AVX512F__)
const NoveltyKernel kWideNoveltyKernel = {14, 32, &run_tile<64, 14, 2>};
#else
const NoveltyKernel kWideNoveltyKernel = {0, 0, nullptr};
#endif

}  // namespace moot
