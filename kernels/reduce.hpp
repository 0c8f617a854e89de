// SPDX-License-Identifier: Apache-2.0
// Sums whose order is fixed by the sizes alone: over rows, of squares by blocks, and over all elements.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <span>

namespace tessera::kernels {

// y[r] = sum_n x[n,r]      x: (N, R) f32, bf16 or f16    y: (R) f32, R = y.count()
// The workspace holds sum_rows_workspace_bytes bytes, of any shape and type.
void sum_rows(CpuStream& stream, ConstView x, View y, View workspace);
void sum_rows(CudaStream& stream, ConstView x, View y, View workspace);

// Depends on the sizes only, never on the number of threads.
std::int64_t sum_rows_workspace_bytes(const CpuStream& stream, std::int64_t rows, std::int64_t columns);
std::int64_t sum_rows_workspace_bytes(const CudaStream& stream, std::int64_t rows, std::int64_t columns);

// blocks[t][i] = sum of the squares of elements [i * square_sum_block, (i + 1) * square_sum_block) of x[t], t being one
// of any number of tensors. x[t]: f32    blocks[t]: (ceil(x[t].count() / square_sum_block)) f32
inline constexpr std::int64_t square_sum_block = 4096;
void square_sums(CpuStream& stream, std::span<const View> x, std::span<const View> blocks);
void square_sums(CudaStream& stream, std::span<const View> x, std::span<const View> blocks);

// y = the sum of all elements of x, neighbours added in a binary tree that is fixed by the count alone: the left half
// of a tree over n elements is the largest power of two below n. Hence the same bits on every kind of device.
// x: f32, y: one f32. No element sums to 0.
void sum(CpuStream& stream, ConstView x, View y);
void sum(CudaStream& stream, ConstView x, View y);

// The same for any number of tensors: y[t] = the sum of x[t].     y: (x.size()) f32
void sums(CpuStream& stream, std::span<const View> x, View y);
void sums(CudaStream& stream, std::span<const View> x, View y);

} // namespace tessera::kernels
