// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution on the CPU: a product of one column would waste a tile, so channels lie side by side in
// vectors. The filters are turned first, (R, S, C) as float.
#include "kernels/cpu/depthwise.hpp"

#include "kernels/cpu/column_sums.hpp"
#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/windows.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 16384; // times the taps of each

// Lines are rows of all images, [begin, end) of them.
template <class T> TESSERA_MULTIVERSION void sum_inputs(const Windows& at, std::int64_t begin, std::int64_t end,
                                                        const T* x, const float* w, const float* bias, T* y) {
    for (std::int64_t i = begin * at.out_width; i < end * at.out_width; ++i) {
        const std::int64_t q = i % at.out_width, p = i / at.out_width % at.out_height;
        const std::int64_t image = i / at.out_width / at.out_height;
        simd::for_columns(at.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
            Floats sum = bias == nullptr ? Floats{} : simd::load(bias + c, width);
            for_inputs(at, image, p, q, [&](std::int64_t from, std::int64_t tap) TESSERA_INLINED {
                sum += simd::load(x + from + c, width) * simd::load(w + tap * at.channels + c, width);
            });
            simd::store(y + i * at.channels + c, sum, width);
        });
    }
}

template <class T> TESSERA_MULTIVERSION void sum_outputs(const Windows& at, std::int64_t begin, std::int64_t end,
                                                         const T* dy, const float* w, T* dx) {
    for (std::int64_t i = begin * at.width; i < end * at.width; ++i) {
        const std::int64_t column = i % at.width, row = i / at.width % at.height;
        const std::int64_t image = i / at.width / at.height;
        simd::for_columns(at.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
            Floats sum{};
            for_outputs(at, image, row, column,
                        [&](std::int64_t, std::int64_t, std::int64_t from, std::int64_t tap) TESSERA_INLINED {
                            sum += simd::load(dy + from + c, width) * simd::load(w + tap * at.channels + c, width);
                        });
            simd::store(dx + i * at.channels + c, sum, width);
        });
    }
}

// sums (R, S, C) over the lines [begin, end) of y: line after line, pixel after pixel.
template <class T> TESSERA_MULTIVERSION void sum_lines(const Windows& at, std::int64_t begin, std::int64_t end,
                                                       const T* dy, const T* x, float* sums) {
    std::fill_n(sums, at.rows.size * at.columns.size * at.channels, 0.0f);
    for (std::int64_t line = begin; line < end; ++line) {
        const std::int64_t p = line % at.out_height, image = line / at.out_height;
        for (std::int64_t tap = 0; tap < at.rows.size * at.columns.size; ++tap) {
            const std::int64_t row = at.input(at.rows, p, tap / at.columns.size);
            if (row < 0 || row >= at.height) continue;
            const T* const source = x + (image * at.height + row) * at.width * at.channels;
            simd::for_columns(at.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
                Floats sum = simd::load(sums + tap * at.channels + c, width);
                for (std::int64_t q = 0; q < at.out_width; ++q) {
                    const std::int64_t column = at.input(at.columns, q, tap % at.columns.size);
                    if (column < 0 || column >= at.width) continue;
                    sum += simd::load(dy + (line * at.out_width + q) * at.channels + c, width) *
                           simd::load(source + column * at.channels + c, width);
                }
                simd::store(sums + tap * at.channels + c, sum, width);
            });
        }
    }
}

template <class T> void turn(const Convolution& shape, const T* w, float* to) {
    const std::int64_t taps = shape.window.taps();
    for (std::int64_t k = 0; k < shape.filters; ++k)
        for (std::int64_t tap = 0; tap < taps; ++tap)
            to[tap * shape.filters + k] = static_cast<float>(w[k * taps + tap]);
}

std::int64_t lines_per_thread(const Convolution& shape, std::int64_t width) {
    return rows_per_thread(width * shape.channels * shape.window.taps(), elements_per_thread);
}

std::int64_t weights(const Convolution& shape) { return shape.window.taps() * shape.channels; }

} // namespace

std::int64_t depthwise_workspace_bytes(const Convolution& shape) { return weights(shape) * 4; }

std::int64_t depthwise_weight_gradient_workspace_bytes(const Convolution& shape) {
    return (row_blocks(shape.batch * shape.out_height()) + 1) * weights(shape) * 4;
}

void depthwise(CpuStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
               View workspace) {
    auto* const turned = static_cast<float*>(workspace.memory());
    with_float_type("convolution", x.dtype, [&]<class T>() {
        turn(shape, w.as<T>(), turned);
        const float* const added = bias ? bias.as<float>() : nullptr;
        stream.parallel(shape.batch * shape.out_height(), lines_per_thread(shape, shape.out_width()),
                        [&](std::int64_t begin, std::int64_t end) {
                            sum_inputs(windows_of(shape), begin, end, x.as<T>(), turned, added, y.as<T>());
                        });
    });
}

void depthwise_input_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                              View workspace) {
    auto* const turned = static_cast<float*>(workspace.memory());
    with_float_type("convolution_input_gradient", dy.dtype, [&]<class T>() {
        turn(shape, w.as<T>(), turned);
        stream.parallel(shape.batch * shape.height, lines_per_thread(shape, shape.width),
                        [&](std::int64_t begin, std::int64_t end) {
                            sum_outputs(windows_of(shape), begin, end, dy.as<T>(), turned, dx.as<T>());
                        });
    });
}

// Lines are cut into blocks that do not depend on the threads; their sums are added in order.
void depthwise_weight_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                               View workspace) {
    const std::int64_t lines = shape.batch * shape.out_height(), size = rows_per_block(lines);
    const std::int64_t blocks = row_blocks(lines), count = weights(shape), taps = shape.window.taps();
    auto* const whole = static_cast<float*>(workspace.memory());
    float* const partial = whole + count;
    with_float_type("convolution_weight_gradient", x.dtype, [&]<class T>() {
        stream.parallel(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t block = begin; block < end; ++block)
                sum_lines(windows_of(shape), block * size, std::min(lines, (block + 1) * size), dy.as<T>(), x.as<T>(),
                          partial + block * count);
        });
    });
    if (blocks > 0)
        add_partial_sums(stream, partial, blocks, count, count, whole);
    else
        std::fill_n(whole, count, 0.0f);
    auto* const to = dw.as<float>();
    for (std::int64_t k = 0; k < shape.filters; ++k)
        for (std::int64_t tap = 0; tap < taps; ++tap)
            to[k * taps + tap] = whole[tap * shape.filters + k];
}

} // namespace tessera::kernels
