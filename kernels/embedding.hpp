// SPDX-License-Identifier: Apache-2.0
// Rows of a table chosen by token numbers, and the gradient of the table.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

// tokens: (N) i32, each in [0, V); any other is a ConfigError that names the token, its position and V.
// N is the count of `tokens`; V is the first dim of the table.
namespace tessera::kernels {

// y[n,:] = table[tokens[n],:]      table: (V, C)    y: (N, C), each f32 or bf16
void embedding(CpuStream& stream, ConstView tokens, ConstView table, View y);
void embedding(CudaStream& stream, ConstView tokens, ConstView table, View y);

// dtable[v,:] = sum of dy[n,:] over the n with tokens[n] == v, added in the order of n; overwritten.
// dy: (N, C) f32 or bf16    dtable: (V, C) f32
void embedding_gradient(CpuStream& stream, ConstView tokens, ConstView dy, View dtable);
void embedding_gradient(CudaStream& stream, ConstView tokens, ConstView dy, View dtable);

} // namespace tessera::kernels
