// SPDX-License-Identifier: Apache-2.0
// Blocks of f32 products.
#include "kernels/cpu/matmul_tile.hpp"

namespace tessera::kernels {

TESSERA_MULTIVERSION void multiply_rows_f32(const MatmulBlock& block) {
    multiply_block<false, simd::MultiplyAdd>(block);
}
TESSERA_MULTIVERSION void multiply_columns_f32(const MatmulBlock& block) {
    multiply_block<true, simd::MultiplyAdd>(block);
}

void multiply_block_f32(const MatmulBlock& block) {
    if (block.a_order == TileOrder::rows)
        multiply_rows_f32(block);
    else
        multiply_columns_f32(block);
}

} // namespace tessera::kernels
