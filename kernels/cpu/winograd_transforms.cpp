// SPDX-License-Identifier: Apache-2.0
// Sixteen channels at a time; a patch that reaches beyond the image is first copied with zeros around it.
#include "kernels/cpu/winograd_transforms.hpp"

#include "kernels/cpu/tiles.hpp"

#include <algorithm>
#include <cstring>

namespace tessera::kernels {
namespace {

using simd::Floats;

template <class Body> TESSERA_INLINE void for_rows(int first, int end, const Body& body) {
    simd::unrolled<4>([&](auto row) TESSERA_INLINE_LAMBDA {
        if (first <= row && row < end) body(row);
    });
}

// Row i of the patch's transform, of four numbers in a line or a column.
template <int i, class Number> TESSERA_INLINE auto of_patch(const Number& number) {
    if constexpr (i == 0)
        return number(std::integral_constant<int, 0>{}) - number(std::integral_constant<int, 2>{});
    else if constexpr (i == 1)
        return number(std::integral_constant<int, 1>{}) + number(std::integral_constant<int, 2>{});
    else if constexpr (i == 2)
        return number(std::integral_constant<int, 2>{}) - number(std::integral_constant<int, 1>{});
    else
        return number(std::integral_constant<int, 1>{}) - number(std::integral_constant<int, 3>{});
}

struct Place {
    std::int64_t image, line, column; // of a quad

    Place(const QuadImage& of, std::int64_t quad)
        : image(quad / of.across / of.down), line(quad / of.across % of.down), column(quad % of.across) {}
    void advance(const QuadImage& of) {
        if (++column < of.across) return;
        column = 0;
        if (++line < of.down) return;
        line = 0;
        ++image;
    }
};

// The patch whose first pixel is (y, x) to `to`, with zeros where it is outside.
void copy_patch(const QuadImage& of, const float* image, std::int64_t y, std::int64_t x, float* to) {
    const auto pixel = static_cast<std::size_t>(of.channels) * sizeof(float);
    for (std::int64_t i = 0; i < 4; ++i)
        for (std::int64_t j = 0; j < 4; ++j, to += of.channels) {
            if (y + i >= 0 && y + i < of.height && x + j >= 0 && x + j < of.width)
                std::memcpy(to, image + ((y + i) * of.width + x + j) * of.channels, pixel);
            else
                std::memset(to, 0, pixel);
        }
}

constexpr std::int64_t quads_ahead = 4;

// Two pixels of so many lines, some quads further on: they are in lines of memory that the processor does not foresee.
TESSERA_INLINE void prefetch(const float* pixel, int lines, std::int64_t line, std::int64_t channels,
                             std::int64_t columns) {
    pixel += 2 * quads_ahead * channels;
    for (int i = 0; i < lines; ++i, pixel += line)
        for (std::int64_t c = 0; c < columns; c += simd::lanes) {
            __builtin_prefetch(pixel + c);
            __builtin_prefetch(pixel + channels + c);
        }
}

} // namespace

TESSERA_MULTIVERSION void transform_patches(const QuadImage& image, const float* source, const QuadRange& of,
                                            float* patch, std::int64_t apart, float* to) {
    Place place(image, of.begin);
    const std::int64_t channels = image.channels;
    for (std::int64_t quad = of.begin; quad < of.end; ++quad, place.advance(image), to += channels) {
        const std::int64_t y = 2 * place.line + image.first_y, x = 2 * place.column + image.first_x;
        const float* const base = source + place.image * image.height * image.width * channels;
        const bool inside = y >= 0 && x >= 0 && y + 4 <= image.height && x + 4 <= image.width;
        if (!inside) copy_patch(image, base, y, x, patch);
        const float* const corner = inside ? base + (y * image.width + x) * channels : patch;
        const std::int64_t line = (inside ? image.width : 4) * channels;
        if (inside) prefetch(corner + 2 * channels, 4, line, channels, channels);
        for_rows(of.first_row, of.end_row, [&](auto row) TESSERA_INLINE_LAMBDA {
            float* const numbers = to + 4 * (row - of.first_row) * apart;
            for (std::int64_t c = 0; c < channels; c += simd::lanes) {
                Floats columns[4];
                simd::unrolled<4>([&](auto j) TESSERA_INLINE_LAMBDA {
                    columns[j] = of_patch<row>(
                        [&](auto i) TESSERA_INLINE_LAMBDA { return simd::load(corner + i * line + j * channels + c); });
                });
                simd::unrolled<4>([&](auto j) TESSERA_INLINE_LAMBDA {
                    simd::store(numbers + j * apart + c,
                                of_patch<j>([&](auto i) TESSERA_INLINE_LAMBDA { return columns[i]; }));
                });
            }
        });
    }
}

TESSERA_MULTIVERSION void transform_quads(const QuadImage& image, const float* dy, const QuadRange& of,
                                          std::int64_t first, std::int64_t columns, std::int64_t apart, float* to) {
    Place place(image, of.begin);
    for (std::int64_t quad = of.begin; quad < of.end; ++quad, place.advance(image), to += columns) {
        const std::int64_t y = 2 * place.line, x = 2 * place.column;
        const float* const corner = dy + ((place.image * image.height + y) * image.width + x) * image.channels + first;
        const bool below = y + 1 < image.height, right = x + 1 < image.width;
        prefetch(corner, 2, image.width * image.channels, image.channels, columns);
        for (std::int64_t c = 0; c < columns; c += simd::lanes) {
            const auto result = [&](std::int64_t i, std::int64_t j) TESSERA_INLINE_LAMBDA {
                return (i == 1 && !below) || (j == 1 && !right)
                           ? Floats{}
                           : simd::load(corner + (i * image.width + j) * image.channels + c);
            };
            const Floats r00 = result(0, 0), r01 = result(0, 1), r10 = result(1, 0), r11 = result(1, 1);
            for_rows(of.first_row, of.end_row, [&](auto row) TESSERA_INLINE_LAMBDA {
                float* const numbers = to + 4 * (row - of.first_row) * apart + c;
                const Floats a = row == 0 ? r00 : row == 1 ? r00 + r10 : row == 2 ? r00 - r10 : -r10;
                const Floats b = row == 0 ? r01 : row == 1 ? r01 + r11 : row == 2 ? r01 - r11 : -r11;
                simd::store(numbers, a);
                simd::store(numbers + apart, a + b);
                simd::store(numbers + 2 * apart, a - b);
                simd::store(numbers + 3 * apart, -b);
            });
        }
    }
}

TESSERA_MULTIVERSION void results_of_quads(const QuadImage& image, const float* products, std::int64_t apart,
                                           const QuadRange& of, std::int64_t first, std::int64_t stride,
                                           std::int64_t columns, const float* bias, float* y) {
    Place place(image, of.begin);
    for (std::int64_t quad = of.begin; quad < of.end; ++quad, place.advance(image), products += stride) {
        const std::int64_t line = 2 * place.line, column = 2 * place.column;
        float* const corner = y + ((place.image * image.height + line) * image.width + column) * image.channels + first;
        const bool below = line + 1 < image.height, right = column + 1 < image.width;
        for (std::int64_t c = 0; c < columns; c += simd::lanes) {
            const Floats offset = bias == nullptr ? Floats{} : simd::load(bias + c);
            Floats left[4], rest[4]; // of each row
            simd::unrolled<4>([&](auto i) TESSERA_INLINE_LAMBDA {
                const float* const row = products + 4 * i * apart + c;
                const Floats m0 = simd::load(row), m1 = simd::load(row + apart), m2 = simd::load(row + 2 * apart),
                             m3 = simd::load(row + 3 * apart);
                left[i] = m0 + m1 + m2;
                rest[i] = m1 - m2 - m3;
            });
            simd::store(corner + c, left[0] + left[1] + left[2] + offset);
            if (right) simd::store(corner + image.channels + c, rest[0] + rest[1] + rest[2] + offset);
            float* const next = corner + image.width * image.channels + c;
            if (below) simd::store(next, left[1] - left[2] - left[3] + offset);
            if (below && right) simd::store(next + image.channels, rest[1] - rest[2] - rest[3] + offset);
        }
    }
}

TESSERA_MULTIVERSION void transform_filters(float* blocks, std::int64_t count) {
    const float* const taps = blocks + 7 * count;
    for (std::int64_t at = 0; at < count; at += simd::lanes) {
        Floats rows[4][3];
        simd::unrolled<3>([&](auto s) TESSERA_INLINE_LAMBDA {
            const auto tap = [&](int r) TESSERA_INLINE_LAMBDA { return simd::load(taps + (3 * r + s) * count + at); };
            const Floats g0 = tap(0), half = 0.5f * tap(1), g2 = tap(2), ends = 0.5f * (g0 + g2);
            rows[0][s] = g0;
            rows[1][s] = ends + half;
            rows[2][s] = ends - half;
            rows[3][s] = g2;
        });
        simd::unrolled<4>([&](auto i) TESSERA_INLINE_LAMBDA {
            float* const to = blocks + 4 * i * count + at;
            const Floats half = 0.5f * rows[i][1], ends = 0.5f * (rows[i][0] + rows[i][2]);
            simd::store(to, rows[i][0]);
            simd::store(to + count, ends + half);
            simd::store(to + 2 * count, ends - half);
            simd::store(to + 3 * count, rows[i][2]);
        });
    }
}

TESSERA_MULTIVERSION void gradients_of_filters(float* blocks, std::int64_t count) {
    for (std::int64_t at = 0; at < count; at += simd::lanes) {
        Floats rows[3][4];
        simd::unrolled<4>([&](auto j) TESSERA_INLINE_LAMBDA {
            const auto sum = [&](int i) TESSERA_INLINE_LAMBDA { return simd::load(blocks + (4 * i + j) * count + at); };
            const Floats s1 = sum(1), s2 = sum(2), both = 0.5f * (s1 + s2);
            rows[0][j] = sum(0) + both;
            rows[1][j] = 0.5f * (s1 - s2);
            rows[2][j] = both + sum(3);
        });
        simd::unrolled<3>([&](auto i) TESSERA_INLINE_LAMBDA {
            float* const to = blocks + 3 * i * count + at;
            const Floats both = 0.5f * (rows[i][1] + rows[i][2]);
            simd::store(to, rows[i][0] + both);
            simd::store(to + count, 0.5f * (rows[i][1] - rows[i][2]));
            simd::store(to + 2 * count, both + rows[i][3]);
        });
    }
}

} // namespace tessera::kernels
