// SPDX-License-Identifier: Apache-2.0
// What the tests of convolutions have in common: plain sums in double, and what each result is held to.
#pragma once

#include "kernels/convolution.hpp"

#include "kernels/cuda/convolution_variants.hpp"
#include "tests/support/device.hpp"

#include <cstring>
#include <limits>
#include <sys/mman.h>
#include <unistd.h>

namespace convolution_test {

using namespace tessera;
using kernels::ConvolutionVariant;

// The ways in which a device does it.
template <class Device> std::vector<ConvolutionVariant> variants() {
    if (std::is_same_v<Device, OnCpu>) return {ConvolutionVariant::fastest};
    return {ConvolutionVariant::fastest, ConvolutionVariant::tiled};
}

inline Shape image(const Convolution& c) { return {c.batch, c.height, c.width, c.channels}; }
inline Shape weight(const Convolution& c) {
    return {c.filters, c.window.height.size, c.window.width.size, c.group_channels()};
}
inline Shape output(const Convolution& c) { return {c.batch, c.out_height(), c.out_width(), c.filters}; }

// Calls visit(place in x, in w, in y) for every product that the convolution is a sum of.
template <class Visit> void for_products(const Convolution& c, const Visit& visit) {
    const std::int64_t channels = c.group_channels(), size = c.window.width.size;
    for (std::int64_t y = 0; y < c.pixels() * c.filters; ++y) {
        const std::int64_t k = y % c.filters, q = y / c.filters % c.out_width();
        const std::int64_t p = y / c.filters / c.out_width() % c.out_height();
        const std::int64_t n = y / c.filters / c.out_width() / c.out_height();
        const std::int64_t first = k / c.group_filters() * channels;
        for (std::int64_t tap = 0; tap < c.window.taps(); ++tap) {
            const std::int64_t r = tap / size, s = tap % size;
            const std::int64_t row = p * c.window.height.stride - c.window.height.before + r * c.window.height.dilation;
            const std::int64_t column = q * c.window.width.stride - c.window.width.before + s * c.window.width.dilation;
            if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
            const std::int64_t pixel = ((n * c.height + row) * c.width + column) * c.channels + first;
            for (std::int64_t channel = 0; channel < channels; ++channel)
                visit(pixel + channel, (k * c.window.taps() + tap) * channels + channel, y);
        }
    }
}

// Sums of products and of their magnitudes.
struct Sums {
    std::vector<double> values, magnitudes;

    explicit Sums(std::int64_t count)
        : values(static_cast<std::size_t>(count)), magnitudes(static_cast<std::size_t>(count)) {}
    void add(std::int64_t place, double value) {
        values[static_cast<std::size_t>(place)] += value;
        magnitudes[static_cast<std::size_t>(place)] += std::abs(value);
    }
};

inline void poison(const Sample& sample) {
    for (std::int64_t i = 0; i < sample.count(); ++i)
        const_cast<Sample&>(sample).set(i, std::numeric_limits<double>::quiet_NaN());
}

inline Sample workspace_of(std::int64_t bytes) {
    Sample workspace(Shape{(bytes + 3) / 4}, DType::f32);
    poison(workspace);
    return workspace;
}

struct Operands {
    Sample x, w, bias, dy;
    Operands(const Convolution& c, DType type)
        : x(image(c), type, 1), w(weight(c), type, 2), bias(Shape{c.filters}, DType::f32, 3), dy(output(c), type, 4) {}
};

template <class Device> void forward(Device& on, const Convolution& c, const Operands& a, bool bias, const Sample& y,
                                     ConvolutionVariant variant = ConvolutionVariant::fastest) {
    const Sample workspace = workspace_of(kernels::convolution_workspace_bytes(on.stream(), c, y.dtype()));
    const ConstView added = bias ? ConstView(on(a.bias)) : ConstView();
    if constexpr (std::is_same_v<Device, OnCpu>)
        kernels::convolution(on.stream(), c, on(a.x), on(a.w), added, on(y), on(workspace));
    else
        kernels::convolution(on.stream(), variant, c, on(a.x), on(a.w), added, on(y), on(workspace));
    on.finish();
}

template <class Device> void input_gradient(Device& on, const Convolution& c, const Operands& a, const Sample& dx,
                                            ConvolutionVariant variant = ConvolutionVariant::fastest) {
    const Sample workspace =
        workspace_of(kernels::convolution_input_gradient_workspace_bytes(on.stream(), c, dx.dtype()));
    if constexpr (std::is_same_v<Device, OnCpu>)
        kernels::convolution_input_gradient(on.stream(), c, on(a.dy), on(a.w), on(dx), on(workspace));
    else
        kernels::convolution_input_gradient(on.stream(), variant, c, on(a.dy), on(a.w), on(dx), on(workspace));
    on.finish();
}

template <class Device> void weight_gradient(Device& on, const Convolution& c, const Operands& a, const Sample& dw,
                                             ConvolutionVariant variant = ConvolutionVariant::fastest) {
    const Sample workspace =
        workspace_of(kernels::convolution_weight_gradient_workspace_bytes(on.stream(), c, a.x.dtype()));
    if constexpr (std::is_same_v<Device, OnCpu>)
        kernels::convolution_weight_gradient(on.stream(), c, on(a.dy), on(a.x), on(dw), on(workspace));
    else
        kernels::convolution_weight_gradient(on.stream(), variant, c, on(a.dy), on(a.x), on(dw), on(workspace));
    on.finish();
}

template <class Device> void expect_forward(Device& on, const Convolution& c, DType type, bool bias) {
    const Operands a(c, type);
    Sums expected(output(c).count());
    for (std::int64_t i = 0; bias && i < output(c).count(); ++i)
        expected.add(i, a.bias[i % c.filters]);
    for_products(c, [&](auto from, auto by, auto to) { expected.add(to, a.x[from] * a.w[by]); });
    for (const ConvolutionVariant variant : variants<Device>()) {
        const Sample y(output(c), type);
        poison(y);
        forward(on, c, a, bias, y, variant);
        EXPECT_TRUE(close_to(y, expected.values, tolerance(type, Kind::product), expected.magnitudes))
            << "bias " << bias << ", variant " << static_cast<int>(variant);
    }
}

template <class Device> void expect_input_gradient(Device& on, const Convolution& c, DType type) {
    const Operands a(c, type);
    Sums expected(image(c).count());
    for_products(c, [&](auto to, auto by, auto from) { expected.add(to, a.dy[from] * a.w[by]); });
    for (const ConvolutionVariant variant : variants<Device>()) {
        const Sample dx(image(c), type);
        poison(dx);
        input_gradient(on, c, a, dx, variant);
        EXPECT_TRUE(close_to(dx, expected.values, tolerance(type, Kind::product), expected.magnitudes))
            << "variant " << static_cast<int>(variant);
    }
}

template <class Device> void expect_weight_gradient(Device& on, const Convolution& c, DType type) {
    const Operands a(c, type);
    Sums expected(weight(c).count());
    for_products(c, [&](auto by, auto to, auto from) { expected.add(to, a.dy[from] * a.x[by]); });
    for (const ConvolutionVariant variant : variants<Device>()) {
        const Sample dw(weight(c), DType::f32);
        poison(dw);
        weight_gradient(on, c, a, dw, variant);
        EXPECT_TRUE(close_to(dw, expected.values, tolerance(DType::f32, Kind::product), expected.magnitudes))
            << "variant " << static_cast<int>(variant);
    }
}

// A copy of a sample that ends where nothing may be read.
class Fenced {
public:
    explicit Fenced(const Sample& sample) : page_(::sysconf(_SC_PAGESIZE)) {
        const View from = sample.view();
        length_ = (from.bytes() + page_ - 1) / page_ * page_ + page_;
        memory_ = ::mmap(nullptr, static_cast<std::size_t>(length_), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::byte* const fence = static_cast<std::byte*>(memory_) + length_ - page_;
        ::mprotect(fence, static_cast<std::size_t>(page_), PROT_NONE);
        view_ = View(fence - from.bytes(), from.shape, from.dtype);
        std::memcpy(view_.memory(), from.memory(), static_cast<std::size_t>(from.bytes()));
    }
    ~Fenced() { ::munmap(memory_, static_cast<std::size_t>(length_)); }
    Fenced(const Fenced&) = delete;
    Fenced& operator=(const Fenced&) = delete;

    operator const View&() const { return view_; }

private:
    std::int64_t page_, length_ = 0;
    void* memory_ = nullptr;
    View view_;
};

inline void expect_nothing_behind_is_touched(const Convolution& c, DType type) {
    OnCpu on;
    const Operands a(c, type);
    const Fenced x(a.x), w(a.w), dy(a.dy), bias(a.bias), y(Sample(output(c), type)), dx(Sample(image(c), type)),
        dw(Sample(weight(c), DType::f32));
    const Fenced one(workspace_of(kernels::convolution_workspace_bytes(on.stream(), c, type))),
        two(workspace_of(kernels::convolution_input_gradient_workspace_bytes(on.stream(), c, type))),
        three(workspace_of(kernels::convolution_weight_gradient_workspace_bytes(on.stream(), c, type)));
    kernels::convolution(on.stream(), c, x, w, bias, y, one);
    kernels::convolution_input_gradient(on.stream(), c, dy, w, dx, two);
    kernels::convolution_weight_gradient(on.stream(), c, dy, x, dw, three);
}

inline void expect_same_bits(const Convolution& c, DType type) {
    const Operands a(c, type);
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        OnCpu on(stream.threads());
        const Sample y(output(c), type);
        forward(on, c, a, true, y);
        return y;
    });
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        OnCpu on(stream.threads());
        const Sample dx(image(c), type);
        input_gradient(on, c, a, dx);
        return dx;
    });
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        OnCpu on(stream.threads());
        const Sample dw(weight(c), DType::f32);
        weight_gradient(on, c, a, dw);
        return dw;
    });
}

} // namespace convolution_test
