// SPDX-License-Identifier: Apache-2.0
// What a product is checked for before it runs, the same on the CPU and on the GPU. Host code only.
#pragma once

#include "kernels/matmul.hpp"

#include <string>

namespace tessera::kernels {

// "12 x 32 over 40, a transposed, bf16 to f32, with bias, accumulating"
std::string text_of(const Matmul& product);

// Throws InternalError for dtypes that no product has.
void check_dtypes(const Matmul& product);

// Throws InternalError for a view of a wrong size or dtype, for a workspace of less than `workspace_bytes`, and for an
// 8-bit product that does not fit.
void check_operands(const Matmul& product, const ConstView& a, const ConstView& b, const ConstView& bias, const View& c,
                    const View& workspace, std::int64_t workspace_bytes, const MatmulScales& scales);

} // namespace tessera::kernels
