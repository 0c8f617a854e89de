// SPDX-License-Identifier: Apache-2.0
// What the fit of numbers is judged by: sums over rows, column by column.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// sums[0,k] = sum_n d[n,k]   sums[1,k] = sum_n d[n,k]^2   sums[2,k] = sum_n (y[n,k] - t[n,k])^2   d[n,k] = t[n,k] -
// c[k] y: (N, K) f32, bf16 or f16   targets t: (N, K) f32   centres c: (K) f32, near the targets' mean, without which
// their spread would be lost in their size   sums: (3, K) f32. Rows are added in their order.
void regression_sums(CpuStream& stream, ConstView y, ConstView targets, ConstView centres, View sums);
void regression_sums(CudaStream& stream, ConstView y, ConstView targets, ConstView centres, View sums);

} // namespace tessera::kernels
