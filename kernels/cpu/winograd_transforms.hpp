// SPDX-License-Identifier: Apache-2.0
// The transforms of F(2 x 2, 3 x 3): patches of 4 x 4 pixels, filters of 3 x 3 taps and quads of 2 x 2 results, each to
// or from 16 numbers a channel. With rows of the matrices written out,
//     patch:    d0 - d2, d1 + d2, d2 - d1, d1 - d3
//     filter:   g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2      its gradient: s0 + (s1 + s2) / 2, (s1 - s2) / 2, …
//     quad:     m0 + m1 + m2, m1 - m2 - m3                          its gradient: y0, y0 + y1, y0 - y1, -y1
// over the columns and then over the rows. Number 4 i + j of the 16 is row i, column j.
#pragma once

#include <cstdint>

namespace tessera::kernels {

// Pixels are so many floats apart, of which a patch or quad may see some outside the image: zeros, or not written.
struct QuadImage {
    std::int64_t height, width, channels;
    std::int64_t down, across;     // quads of an image
    std::int64_t first_y, first_x; // of the patch of quad (0, 0)
};

// A run of quads, counted over lines and images, and of rows of the 16 numbers.
struct QuadRange {
    std::int64_t begin, end;
    int first_row = 0, end_row = 4;
};

// to[number * apart + quad * channels + c], numbers and quads counted from the range's first. channels: a multiple
// of 16. patch: 16 * channels floats of memory.
void transform_patches(const QuadImage& image, const float* source, const QuadRange& of, float* patch,
                       std::int64_t apart, float* to);

// Of the channels [first, first + columns) of an image of results, columns 16 or 32:
// to[number * apart + quad * columns + c]
void transform_quads(const QuadImage& image, const float* dy, const QuadRange& of, std::int64_t first,
                     std::int64_t columns, std::int64_t apart, float* to);
// The way back, to the results, of products[number * apart + quad * stride + c]: all four rows. bias: of the first
// channel, or null.
void results_of_quads(const QuadImage& image, const float* products, std::int64_t apart, const QuadRange& of,
                      std::int64_t first, std::int64_t stride, std::int64_t columns, const float* bias, float* y);

// In place: the last 9 of 16 blocks of `count` floats are taps of filters, all 16 become numbers. count: a multiple
// of 16.
void transform_filters(float* blocks, std::int64_t count);
// In place: 16 blocks of sums become the first 9, gradients of taps.
void gradients_of_filters(float* blocks, std::int64_t count);

} // namespace tessera::kernels
