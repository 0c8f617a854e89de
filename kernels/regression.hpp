// SPDX-License-Identifier: Apache-2.0
// What the fit of numbers is judged by: sums over rows, column by column.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// sums[0,k] = sum_n t[n,k]   sums[1,k] = sum_n t[n,k]^2   sums[2,k] = sum_n (y[n,k] - t[n,k])^2
// y: (N, K) f32, bf16 or f16   targets: (N, K) f32   sums: (3, K) f32. Rows are added in their order.
void regression_sums(CpuStream& stream, ConstView y, ConstView targets, View sums);
void regression_sums(CudaStream& stream, ConstView y, ConstView targets, View sums);

} // namespace tessera::kernels
