// SPDX-License-Identifier: Apache-2.0
// What convolution.cpp leaves to depthwise.cpp: as many groups as channels and as filters. Operands are checked.
#pragma once

#include "kernels/convolution.hpp"

namespace tessera::kernels {

inline bool is_depthwise(const Convolution& shape) {
    return shape.groups > 1 && shape.groups == shape.channels && shape.groups == shape.filters;
}

std::int64_t depthwise_workspace_bytes(const Convolution& shape); // of the first two
std::int64_t depthwise_weight_gradient_workspace_bytes(const Convolution& shape);

void depthwise(CpuStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
               View workspace);
void depthwise_input_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                              View workspace);
void depthwise_weight_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                               View workspace);

} // namespace tessera::kernels
