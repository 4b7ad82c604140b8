// SPDX-License-Identifier: Apache-2.0
#include "novelty_tile.h"

namespace moot {

const NoveltyKernel kNoveltyKernel = {6, 16, &run_tile<32, 6, 2>};

}  // namespace moot
