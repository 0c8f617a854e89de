// SPDX-License-Identifier: Apache-2.0
// The local half of every reduction: several ranks' pieces, lying in this process's reach, combined in one fixed order.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "parallel/communication/communicator.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace tessera {

// target[i] = sources[0][i] ∘ … ∘ sources[n-1][i] for i in [0, count), stored to every target, in the order
// of SummationTree::merges_after. A target may be a source. f32 and bf16 are combined in f32, i32 in i32; i32 sums wrap
// around. Same bits for any number of threads.
void combine(const CpuStream& stream, DType dtype, Reduction reduction, std::span<const int> merges_after,
             std::span<const std::byte* const> sources, std::int64_t count, std::span<std::byte* const> targets);

} // namespace tessera
