// SPDX-License-Identifier: Apache-2.0
// The sizes that ops between tokens and experts read from shapes. Private to core/ops.
#pragma once

#include "kernels/route.hpp"

namespace tessera {

// y: (E, B, capacity, C), what the experts take or made   slots: (B, T, choices)
inline Routing routing_of(const Shape& y, const Shape& slots) {
    return {.samples = slots[0], .tokens = slots[1], .experts = y[0], .choices = slots[2], .capacity = y[2]};
}

} // namespace tessera
