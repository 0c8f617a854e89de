// SPDX-License-Identifier: Apache-2.0
// What a pooling is checked for before it runs, the same on the CPU and on the GPU. Host code only.
#pragma once

#include "kernels/pooling.hpp"

#include <string_view>

namespace tessera::kernels {

// Throws InternalError for a shape that is none, and for views of wrong counts or types: x or dx, y or dy.
void check_pooling(std::string_view kernel, const Pooling& shape, const ConstView& x, const ConstView& y);

} // namespace tessera::kernels
