// SPDX-License-Identifier: Apache-2.0
// The words for a piece of tensor memory: element type, shape and view. Owns nothing; memory.hpp does.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace tessera {

enum class DType : std::uint8_t { f32, bf16, f16, i32, f8e4m3, f8e5m2 }; // the last two: kernels/float8.hpp

std::int64_t bytes_of(DType dtype);
std::string_view name_of(DType dtype);

// Throws ConfigError for an unknown name, with the nearest known one.
DType dtype_named(std::string_view name);

// The upper half of a float. Conversion from float rounds to nearest even; NaN stays NaN.
struct BFloat16 {
    std::uint16_t bits = 0;

    BFloat16() = default;
    explicit BFloat16(float value) {
        const auto word = std::bit_cast<std::uint32_t>(value);
        const bool nan = (word & 0x7fffffffu) > 0x7f800000u;
        bits = static_cast<std::uint16_t>(nan ? (word >> 16) | 0x40u : (word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
    }
    explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

// IEEE 754 binary16: 5 bits of exponent, 10 of mantissa; the largest number is 65504. Conversion from float rounds to
// nearest even, into subnormal numbers too; NaN stays NaN. Multiplications and additions instead of a branch for each
// kind of number (M. Dukhan, FP16), as kernels/cpu/float16.hpp does for sixteen at a time.
struct Float16 {
    std::uint16_t bits = 0;

    Float16() = default;
    explicit Float16(float value) {
        const auto word = std::bit_cast<std::uint32_t>(value);
        const std::uint32_t twice = word + word;
        const float magnitude = std::bit_cast<float>(word & 0x7fffffffu);
        const std::uint32_t exponent = (twice & 0xff000000u) < 0x71000000u ? 0x71000000u : twice & 0xff000000u;
        const float rounded = magnitude * 0x1p+112f * 0x1p-110f + std::bit_cast<float>((exponent >> 1) + 0x07800000u);
        const auto code = std::bit_cast<std::uint32_t>(rounded);
        const std::uint32_t number = ((code >> 13) & 0x7c00u) + (code & 0x0fffu);
        bits = static_cast<std::uint16_t>((word >> 16 & 0x8000u) | (twice > 0xff000000u ? 0x7e00u : number));
    }
    explicit operator float() const {
        const std::uint32_t twice = static_cast<std::uint32_t>(bits) << 17;
        const float normal = std::bit_cast<float>((twice >> 4) + 0x70000000u) * 0x1p-112f;
        const float subnormal = std::bit_cast<float>((twice >> 17) | 0x3f000000u) - 0.5f;
        const float magnitude = twice < 0x08000000u ? subnormal : normal;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | (bits & 0x8000u) << 16);
    }
};

template <class T> constexpr DType dtype_of();
template <> constexpr DType dtype_of<float>() { return DType::f32; }
template <> constexpr DType dtype_of<BFloat16>() { return DType::bf16; }
template <> constexpr DType dtype_of<Float16>() { return DType::f16; }
template <> constexpr DType dtype_of<std::int32_t>() { return DType::i32; }

// Sizes of the dims, outermost first. A scalar has rank 0 and one element. At most 6 dims.
class Shape {
public:
    static constexpr int max_rank = 6;

    Shape() = default;
    Shape(std::initializer_list<std::int64_t> sizes);

    int rank() const { return rank_; }
    std::int64_t operator[](int dim) const { return sizes_[at(dim)]; } // negative dims count from the end
    void set(int dim, std::int64_t size) { sizes_[at(dim)] = size; }
    void append(std::int64_t size);
    std::int64_t count() const { return count(0, rank_); }
    std::int64_t count(int first_dim, int end_dim) const; // product of the sizes of dims [first_dim, end_dim)
    Shape slice(int first_dim, int end_dim) const;        // the dims [first_dim, end_dim) as a shape of their own
    std::string text() const;                             // "(12, 64, 128)"

    friend bool operator==(const Shape&, const Shape&) = default;

private:
    std::size_t at(int dim) const { return static_cast<std::size_t>(dim < 0 ? dim + rank_ : dim); }

    std::array<std::int64_t, max_rank> sizes_{};
    int rank_ = 0;
};

// A contiguous, row-major piece of memory read by a kernel. `data` may be null only where a kernel says so.
struct ConstView {
    const void* data = nullptr;
    Shape shape;
    DType dtype = DType::f32;

    std::int64_t count() const { return shape.count(); }
    std::int64_t bytes() const { return count() * bytes_of(dtype); }
    explicit operator bool() const { return data != nullptr; }
    template <class T> const T* as() const { // throws InternalError when T is not the dtype
        check_dtype(dtype_of<T>());
        return static_cast<const T*>(data);
    }

protected:
    void check_dtype(DType wanted) const;
};

// The same, written by a kernel.
struct View : ConstView {
    View() = default;
    View(void* memory, const Shape& sizes, DType type) : ConstView{memory, sizes, type} {}

    template <class T> T* as() const { return const_cast<T*>(ConstView::as<T>()); }
    void* memory() const { return const_cast<void*>(data); }
};

} // namespace tessera
