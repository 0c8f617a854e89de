// SPDX-License-Identifier: Apache-2.0
// Sums over the rows of a matrix whose order depends on the sizes alone: rows are cut into fixed blocks, each block has
// one row of partial sums in the workspace, and these are added from first to last.
#pragma once

#include "kernels/stream.hpp"

#include <algorithm>
#include <cstdint>

namespace tessera::kernels {

// At most 64 blocks, so that the workspace stays small, of 32 rows at least, so that partial sums cost little.
constexpr std::int64_t rows_per_block(std::int64_t rows) { return std::max<std::int64_t>(32, (rows + 63) / 64); }

constexpr std::int64_t row_blocks(std::int64_t rows) {
    return (rows + rows_per_block(rows) - 1) / rows_per_block(rows);
}

// y[c] = sum over the blocks b, from first to last, of partial[b * stride + c], for c in [0, columns).
void add_partial_sums(const CpuStream& stream, const float* partial, std::int64_t blocks, std::int64_t stride,
                      std::int64_t columns, float* y);

} // namespace tessera::kernels
