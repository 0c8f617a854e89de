// SPDX-License-Identifier: Apache-2.0
// Walks through windows over images: what an output looks at, and which outputs look at an input.
#pragma once

#include "kernels/cpu/simd.hpp"
#include "kernels/window.hpp"

namespace tessera::kernels {

struct Windows {
    std::int64_t height, width, channels, out_height, out_width;
    WindowDim rows, columns;

    // The input that an output's tap looks at; it may be outside the image.
    TESSERA_INLINE static std::int64_t input(const WindowDim& dim, std::int64_t output, std::int64_t tap) {
        return output * dim.stride - dim.before + tap * dim.dilation;
    }
    // The output that looks at an input with this tap; -1: none does.
    TESSERA_INLINE static std::int64_t output(const WindowDim& dim, std::int64_t outputs, std::int64_t input,
                                              std::int64_t tap) {
        const std::int64_t first = input + dim.before - tap * dim.dilation;
        return first < 0 || first % dim.stride != 0 || first / dim.stride >= outputs ? -1 : first / dim.stride;
    }
};

// A convolution or a pooling.
template <class Images> Windows windows_of(const Images& shape) {
    return {shape.height,      shape.width,         shape.channels,    shape.out_height(),
            shape.out_width(), shape.window.height, shape.window.width};
}

// Calls visit(offset of the pixel, tap) for the taps of output (image, p, q) that are in the image, in order.
template <class Visit> TESSERA_INLINE void for_inputs(const Windows& at, std::int64_t image, std::int64_t p,
                                                      std::int64_t q, const Visit& visit) {
    for (std::int64_t r = 0; r < at.rows.size; ++r) {
        const std::int64_t row = at.input(at.rows, p, r);
        if (row < 0 || row >= at.height) continue;
        for (std::int64_t s = 0; s < at.columns.size; ++s) {
            const std::int64_t column = at.input(at.columns, q, s);
            if (column < 0 || column >= at.width) continue;
            visit(((image * at.height + row) * at.width + column) * at.channels, r * at.columns.size + s);
        }
    }
}

// Calls visit(p, q, offset of the pixel, tap) for the outputs that look at the input (image, row, column), in order of
// the taps.
template <class Visit> TESSERA_INLINE void for_outputs(const Windows& at, std::int64_t image, std::int64_t row,
                                                       std::int64_t column, const Visit& visit) {
    for (std::int64_t r = 0; r < at.rows.size; ++r) {
        const std::int64_t p = at.output(at.rows, at.out_height, row, r);
        if (p < 0) continue;
        for (std::int64_t s = 0; s < at.columns.size; ++s) {
            const std::int64_t q = at.output(at.columns, at.out_width, column, s);
            if (q < 0) continue;
            visit(p, q, ((image * at.out_height + p) * at.out_width + q) * at.channels, r * at.columns.size + s);
        }
    }
}

} // namespace tessera::kernels
