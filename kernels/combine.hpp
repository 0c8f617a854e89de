// SPDX-License-Identifier: Apache-2.0
// Several pieces of memory combined element by element in the order of a tree: what is local in a reduction over ranks.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace tessera {

enum class Reduction { sum, max, min };

namespace kernels {

// target[i] = sources[0][i] ∘ … ∘ sources[n-1][i] for i in [0, count), stored to every target. The order is that of a
// stack: push sources[r][i], then replace the two topmost by their combination merges_after[r] times
// (SummationTree::merges_after). A target may be a source. f32 and bf16 are combined in f32 and rounded once, i32 in
// i32, whose sums wrap around; a NaN wins. The same bits on a CPU, for any number of threads, and on a GPU, which takes
// 2048 sources at most.
void combine(CpuStream& stream, DType dtype, Reduction reduction, std::span<const int> merges_after,
             std::span<const std::byte* const> sources, std::int64_t count, std::span<std::byte* const> targets);
void combine(CudaStream& stream, DType dtype, Reduction reduction, std::span<const int> merges_after,
             std::span<const std::byte* const> sources, std::int64_t count, std::span<std::byte* const> targets);

// The most values that the stack of such an order holds. Throws InternalError where it is no order of `sources` pieces
// that ends with one value, or is beyond the limits of a device.
struct CombineLimits {
    std::size_t pieces;
    int levels;
};
int stack_levels(std::span<const int> merges_after, std::size_t sources, CombineLimits limits);

} // namespace kernels
} // namespace tessera
