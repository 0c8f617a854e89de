// SPDX-License-Identifier: Apache-2.0
// Rows of a table chosen by token numbers, and the gradient of the table.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// tokens: (N) i32, each in [0, V); any other is a ConfigError that names the token, its position and V. It is thrown
// before anything is written, or by CudaStream::wait, when what was written is of no use. N is the count of `tokens`;
// V is the first dim of the table.
namespace tessera::kernels {

// y[n,:] = table[tokens[n],:]      table: (V, C)    y: (N, C), each f32, bf16 or f16
void embedding(CpuStream& stream, ConstView tokens, ConstView table, View y);
void embedding(CudaStream& stream, ConstView tokens, ConstView table, View y);

// dtable[v,:] = sum of dy[n,:] over the n with tokens[n] == v, added in the order of n; overwritten. Hence the same
// bits on every kind of device.
// dy: (N, C) f32, bf16 or f16    dtable: (V, C) f32    workspace: embedding_gradient_workspace_bytes, of any shape and
// type
void embedding_gradient(CpuStream& stream, ConstView tokens, ConstView dy, View dtable, View workspace);
void embedding_gradient(CudaStream& stream, ConstView tokens, ConstView dy, View dtable, View workspace);

// tokens: N    vocabulary: V
std::int64_t embedding_gradient_workspace_bytes(const CpuStream& stream, std::int64_t tokens, std::int64_t vocabulary);
std::int64_t embedding_gradient_workspace_bytes(const CudaStream& stream, std::int64_t tokens, std::int64_t vocabulary);

} // namespace tessera::kernels
