// SPDX-License-Identifier: Apache-2.0
// Which rows, or columns, of a vocabulary a rank holds.
#pragma once

#include <cstdint>

namespace tessera::kernels {

struct VocabularyShard {
    std::int64_t first = 0;
    std::int64_t classes = 0; // V of the whole
};

} // namespace tessera::kernels
