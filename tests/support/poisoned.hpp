// SPDX-License-Identifier: Apache-2.0
// Outputs that are NaN before a kernel runs, so that an element that it forgets is seen.
#pragma once

#include "tests/support/sample.hpp"

#include <limits>

namespace tessera {

inline Sample poisoned(const Shape& shape, DType dtype) {
    Sample sample(shape, dtype);
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, std::numeric_limits<double>::quiet_NaN());
    return sample;
}

} // namespace tessera
