// SPDX-License-Identifier: Apache-2.0
// A small tensor for tests: memory of its own with guards on both sides, filled with chosen or pseudo-random numbers,
// read back as doubles, and the comparison with an expected value.
#pragma once

#include "kernels/float8.hpp"
#include "kernels/memory.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "tests/support/tolerance.hpp"

#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <string_view>
#include <vector>

namespace tessera {

class Sample {
public:
    // Zeros.
    Sample(const Shape& shape, DType dtype)
        : shape_(shape), dtype_(dtype), memory_(2 * guard + align_up(shape.count() * bytes_of(dtype))) {
        std::memset(memory_.data(), guard_byte, guard);
        std::memset(end(), guard_byte, guard);
    }
    // Numbers in [low, high), rounded to the element type; the same for the same seed.
    Sample(const Shape& shape, DType dtype, unsigned seed, double low = -2, double high = 2) : Sample(shape, dtype) {
        std::mt19937 generator(seed);
        std::uniform_real_distribution<double> uniform(low, high);
        for (std::int64_t i = 0; i < count(); ++i)
            set(i, uniform(generator));
    }
    Sample(const Sample& other) : Sample(other.shape_, other.dtype_) {
        std::memcpy(start(), other.start(), static_cast<std::size_t>(bytes()));
    }
    Sample& operator=(const Sample&) = delete;
    ~Sample() { EXPECT_TRUE(intact()) << "memory beside a tensor " << shape_.text() << " was written"; }

    View view() const { return {start(), shape_, dtype_}; }
    std::int64_t count() const { return shape_.count(); }
    std::int64_t bytes() const { return count() * bytes_of(dtype_); }
    DType dtype() const { return dtype_; }

    double operator[](std::int64_t i) const {
        if (dtype_ == DType::i32) return view().as<std::int32_t>()[i];
        double value = 0;
        if (with_float8_type(dtype_, [&]<class T>() { value = static_cast<float>(view().as<T>()[i]); })) return value;
        if (dtype_ == DType::f16) return static_cast<float>(view().as<Float16>()[i]);
        return dtype_ == DType::f32 ? view().as<float>()[i] : static_cast<float>(view().as<BFloat16>()[i]);
    }
    void set(std::int64_t i, double value) {
        if (dtype_ == DType::i32)
            view().as<std::int32_t>()[i] = static_cast<std::int32_t>(value);
        else if (dtype_ == DType::f32)
            view().as<float>()[i] = static_cast<float>(value);
        else if (dtype_ == DType::f16)
            view().as<Float16>()[i] = Float16(static_cast<float>(value));
        else if (!with_float8_type(dtype_, [&]<class T>() { view().as<T>()[i] = T(static_cast<float>(value)); }))
            view().as<BFloat16>()[i] = BFloat16(static_cast<float>(value));
    }
    std::vector<double> values() const {
        std::vector<double> result;
        for (std::int64_t i = 0; i < count(); ++i)
            result.push_back((*this)[i]);
        return result;
    }
    bool same_bits(const Sample& other) const {
        return bytes() == other.bytes() && std::memcmp(start(), other.start(), static_cast<std::size_t>(bytes())) == 0;
    }

    // With the guards on both sides, as whole words.
    static constexpr std::int64_t guard = 64;
    View whole() const { return {memory_.data(), {memory_.bytes() / 4}, DType::i32}; }

private:
    static constexpr int guard_byte = 0xa5;

    std::byte* start() const { return memory_.data() + guard; }
    std::byte* end() const { return start() + bytes(); }
    bool intact() const {
        for (std::int64_t i = 0; i < guard; ++i)
            if (memory_.data()[i] != std::byte{guard_byte} || end()[i] != std::byte{guard_byte}) return false;
        return true;
    }

    Shape shape_;
    DType dtype_;
    Buffer memory_;
};

// The first element that is too far from what is expected, if any; `magnitudes` replaces |expected| where it is given.
inline testing::AssertionResult close_to(const Sample& actual, const std::vector<double>& expected, Tolerance allowed,
                                         const std::vector<double>& magnitudes = {}) {
    if (actual.count() != static_cast<std::int64_t>(expected.size()))
        return testing::AssertionFailure() << actual.count() << " elements, expected " << expected.size();
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double value = actual[static_cast<std::int64_t>(i)];
        const double magnitude = magnitudes.empty() ? std::abs(expected[i]) : magnitudes[i];
        if (!(std::abs(value - expected[i]) <= allowed.relative * magnitude + allowed.absolute))
            return testing::AssertionFailure() << "element " << i << " of " << expected.size() << " is " << value
                                               << ", expected " << expected[i] << " (magnitude " << magnitude << ")";
    }
    return testing::AssertionSuccess();
}

// Runs the work with 1, 2 and 3 threads and twice with 2; every result must have the bits of the first.
inline void expect_same_bits_for_any_threads(const std::function<Sample(CpuStream&)>& work) {
    CpuStream one(1);
    const Sample first = work(one);
    for (const int threads : {2, 3, 2}) {
        CpuStream stream(threads);
        EXPECT_TRUE(work(stream).same_bits(first)) << threads << " threads";
    }
}

// The slope of f in element i of x, by central differences.
inline double slope(std::vector<double> x, std::size_t i, const std::function<double(const std::vector<double>&)>& f,
                    double distance = 1e-5) {
    const double middle = x[i];
    x[i] = middle + distance;
    const double above = f(x);
    x[i] = middle - distance;
    return (above - f(x)) / (2 * distance);
}

} // namespace tessera
