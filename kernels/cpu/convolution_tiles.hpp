// SPDX-License-Identifier: Apache-2.0
// Products whose rows lie anywhere: what convolution_direct.cpp asks of the loops below it.
#pragma once

#include <cstdint>

namespace tessera::kernels {

inline constexpr std::int64_t tile_words = 512; // of b at one time: a panel of so many streams from the second cache

// c[c_rows[i] + x] = [c] [+ bias[x]] + sum over segments s and k < count of
//     a[a_rows[i] + a_at[s] + k * a_step] * b[b_at[s] + k * b_step + x / 32 * b_panel + x % 32]
struct Tiles {
    const float* a;
    const std::int64_t* a_rows;
    std::int64_t rows;
    const std::int64_t *a_at, *b_at;
    std::int64_t segments, count, a_step;
    const float* b;
    std::int64_t b_step, b_panel, columns;
    const float* bias; // null: none
    bool read_c;
    float* c;
    const std::int64_t* c_rows;
};

// A sum is one chain, in the order of s and k. Vectors of b are read whole: up to 15 floats behind a row's last one,
// whose values do not matter.
void multiply_tiles(const Tiles& of);

} // namespace tessera::kernels
