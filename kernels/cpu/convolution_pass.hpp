// SPDX-License-Identifier: Apache-2.0
// A convolution, or its gradient, as passes: the pixels of one image, each a product of a window of another with
// weights.
#pragma once

#include "kernels/convolution.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace tessera::kernels {

// One dim of a gather: target i, which lies at target_first + i * target_step, takes tap t from the source
// i * step + first + t * tap_step, or 0 outside [0, sources). Tap t has the weight weight_first + t * weight_step.
struct Line {
    std::int64_t targets, target_first, target_step, target_length;
    std::int64_t sources, step, first;
    std::int64_t taps, tap_step, weight_first, weight_step;

    bool is_whole() const { return targets == target_length; }
    bool is_identity() const { return taps == 1 && step == 1 && first == 0 && targets == sources; }
};

inline Line forward_line(const WindowDim& window, std::int64_t length) {
    const std::int64_t outputs = window.outputs(length);
    return {.targets = outputs,
            .target_first = 0,
            .target_step = 1,
            .target_length = outputs,
            .sources = length,
            .step = window.stride,
            .first = -window.before,
            .taps = window.size,
            .tap_step = window.dilation,
            .weight_first = 0,
            .weight_step = 1};
}

// The inputs phase, phase + stride, ... are all reached by the same taps r: those for which phase + before - r *
// dilation is a multiple of the stride. From the last of them to the first, their outputs lie in rising order.
inline Line gradient_line(const WindowDim& window, std::int64_t length, std::int64_t phase) {
    const std::int64_t period = window.stride / std::gcd(window.stride, window.dilation);
    const auto distance = [&](std::int64_t r) { return phase + window.before - r * window.dilation; };
    std::int64_t lowest = 0;
    while (lowest < std::min(period, window.size) && distance(lowest) % window.stride != 0)
        ++lowest;
    const bool any = lowest < std::min(period, window.size);
    const std::int64_t taps = any ? (window.size - 1 - lowest) / period + 1 : 0;
    const std::int64_t last = lowest + std::max<std::int64_t>(taps - 1, 0) * period;
    return {.targets = phase < length ? (length - 1 - phase) / window.stride + 1 : 0,
            .target_first = phase,
            .target_step = window.stride,
            .target_length = length,
            .sources = window.outputs(length),
            .step = 1,
            .first = any ? distance(last) / window.stride : 0,
            .taps = taps,
            .tap_step = period * window.dilation / window.stride,
            .weight_first = last,
            .weight_step = -period};
}

// Channels [first, first + count) of the `all` that a pixel has.
struct Channels {
    std::int64_t all, first, count;
};

// Pixels of one kind of image made from windows of another.
struct Pass {
    std::int64_t batch;
    Line height, width;
    std::int64_t source_channels, target_channels, groups; // of all groups
    DType dtype;

    std::int64_t rows() const { return batch * height.targets * width.targets; }
    std::int64_t taps() const { return height.taps * width.taps; }
    std::int64_t row_elements() const { return taps() * (source_channels / groups); } // of a gathered row
    bool reads_in_place() const { return groups == 1 && height.is_identity() && width.is_identity(); }
    bool writes_in_place() const { return groups == 1 && height.is_whole() && width.is_whole(); }
    Channels sources(std::int64_t group) const {
        return {source_channels, group * (source_channels / groups), source_channels / groups};
    }
    Channels targets(std::int64_t group) const {
        return {target_channels, group * (target_channels / groups), target_channels / groups};
    }
};

inline Pass forward_pass(const Convolution& shape, DType dtype) {
    return {shape.batch,
            forward_line(shape.window.height, shape.height),
            forward_line(shape.window.width, shape.width),
            shape.channels,
            shape.filters,
            shape.groups,
            dtype};
}

inline Pass gradient_pass(const Convolution& shape, std::int64_t row_phase, std::int64_t column_phase, DType dtype) {
    return {shape.batch,
            gradient_line(shape.window.height, shape.height, row_phase),
            gradient_line(shape.window.width, shape.width, column_phase),
            shape.filters,
            shape.channels,
            shape.groups,
            dtype};
}

// Packs the weights of a group's target channels [first, first + count), count <= 32: to[word * 32 + i] is that of
// channel first + i, words being (tap, source channel).
using PackWeights = std::function<void(std::int64_t first, std::int64_t count, float* to)>;

} // namespace tessera::kernels
