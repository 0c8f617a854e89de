// SPDX-License-Identifier: Apache-2.0
// Rows of a table chosen by token numbers, and the gradient of the table.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "kernels/vocabulary_shard.hpp"

#include <cstdint>

// tokens: (N) i32, each in [0, V); any other is a ConfigError that names the token, its position and V. It is thrown
// before anything is written, or by CudaStream::wait, when what was written is of no use. N is the count of `tokens`.
// table, dtable: (Vs, C), the rows [first, first + Vs) of the whole, whose V rows are the shard's classes; Vs may be 0.
namespace tessera::kernels {

// y[n,:] = table[tokens[n] - first,:], or 0 when that row lies in another shard.    y: (N, C), each f32, bf16 or f16
void embedding(CpuStream& stream, ConstView tokens, ConstView table, VocabularyShard shard, View y);
void embedding(CudaStream& stream, ConstView tokens, ConstView table, VocabularyShard shard, View y);

// dtable[v,:] = sum of dy[n,:] over the n with tokens[n] == first + v, added in the order of n; overwritten. Hence the
// same bits on every kind of device.
// dy: (N, C) f32, bf16 or f16    dtable: f32    workspace: embedding_gradient_workspace_bytes, of any shape and type
void embedding_gradient(CpuStream& stream, ConstView tokens, ConstView dy, VocabularyShard shard, View dtable,
                        View workspace);
void embedding_gradient(CudaStream& stream, ConstView tokens, ConstView dy, VocabularyShard shard, View dtable,
                        View workspace);

// The whole table.
template <class AnyStream> void embedding(AnyStream& stream, ConstView tokens, ConstView table, View y) {
    embedding(stream, tokens, table, {0, table.shape[0]}, y);
}
template <class AnyStream>
void embedding_gradient(AnyStream& stream, ConstView tokens, ConstView dy, View dtable, View workspace) {
    embedding_gradient(stream, tokens, dy, {0, dtable.shape[0]}, dtable, workspace);
}

// tokens: N    vocabulary: Vs
std::int64_t embedding_gradient_workspace_bytes(const CpuStream& stream, std::int64_t tokens, std::int64_t vocabulary);
std::int64_t embedding_gradient_workspace_bytes(const CudaStream& stream, std::int64_t tokens, std::int64_t vocabulary);

} // namespace tessera::kernels
