// SPDX-License-Identifier: Apache-2.0
// What a convolution is checked for before it runs, the same on the CPU and on the GPU. Host code only.
#pragma once

#include "kernels/convolution.hpp"

#include <string_view>

namespace tessera::kernels {

// Throws InternalError for a shape that is none.
void check_convolution(std::string_view kernel, const Convolution& shape);

// The same, and for views of wrong counts: x or dx, w or dw, y or dy.
void check_convolution(std::string_view kernel, const Convolution& shape, const ConstView& x, const ConstView& w,
                       const ConstView& y);

} // namespace tessera::kernels
