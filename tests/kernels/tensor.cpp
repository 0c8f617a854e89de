// SPDX-License-Identifier: Apache-2.0
// Shapes, rounding to bf16 and f16, buffers and the sentence for an unknown name.
#include "kernels/tensor.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "kernels/nearest_name.hpp"
#include "kernels/stream.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

using namespace tessera;

namespace tensor_test {

TEST(Tensor, ShapeCountsSlicesAndPrints) {
    const Shape shape{12, 64, 3, 4, 32};
    EXPECT_EQ(shape.count(), 12 * 64 * 3 * 4 * 32);
    EXPECT_EQ(shape[-1], 32);
    EXPECT_EQ(shape.count(2, 5), 384);
    EXPECT_EQ(shape.slice(1, 3), (Shape{64, 3}));
    EXPECT_EQ(shape.text(), "(12, 64, 3, 4, 32)");
    EXPECT_EQ(Shape{}.count(), 1);
}

// Against the compiler's own 16-bit numbers: every code, and what lies on, below and above the middle of each two.
TEST(Tensor, Float16RoundsToNearestEven) {
    const auto code_of = [](float value) { return std::bit_cast<std::uint16_t>(static_cast<_Float16>(value)); };
    for (std::uint32_t code = 0; code < 0x10000; ++code) {
        Float16 number;
        number.bits = static_cast<std::uint16_t>(code);
        const auto expected = static_cast<float>(std::bit_cast<_Float16>(number.bits));
        const auto value = static_cast<float>(number);
        if (std::isnan(expected)) {
            ASSERT_TRUE(std::isnan(value)) << code;
            ASSERT_TRUE(std::isnan(static_cast<float>(Float16(value)))) << code;
            continue;
        }
        ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(expected)) << code;
        ASSERT_EQ(Float16(value).bits, code);
        if ((code & 0x7fffu) >= 0x7c00u) continue;
        Float16 next;
        next.bits = static_cast<std::uint16_t>(code + 1);
        const float above = (code & 0x7fffu) == 0x7bffu ? std::copysign(65536.0f, value) : static_cast<float>(next);
        const float middle = value + (above - value) / 2;
        for (const float near : {middle, std::nextafter(middle, value), std::nextafter(middle, above)})
            ASSERT_EQ(Float16(near).bits, code_of(near)) << near;
    }
    for (const float value : {1e-8f, -1e-8f, 1e-30f, 1e-45f, 65519.0f, 65520.0f, -1e9f, 3.4e38f, INFINITY, -INFINITY})
        EXPECT_EQ(Float16(value).bits, code_of(value)) << value;
}

TEST(Tensor, BFloat16RoundsToNearestEven) {
    EXPECT_EQ(static_cast<float>(BFloat16(1.0f)), 1.0f);
    EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 1.0f / 256)), 1.0f);              // a tie goes to the even one
    EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 3.0f / 256)), 1.0f + 4.0f / 256); // up
    EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::numeric_limits<float>::quiet_NaN()))));
    EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::max()))));
}

TEST(Tensor, AViewOfAnotherTypeIsRefused) {
    float value = 1;
    const View view(&value, Shape{1}, DType::f32);
    EXPECT_THROW(view.as<std::int32_t>(), InternalError);
}

TEST(Tensor, UnknownNameNamesTheNearest) {
    EXPECT_EQ(no_such_name("op", "sofmax", {"relu", "softmax"}), "no op named 'sofmax'; did you mean 'softmax'?");
    EXPECT_EQ(no_such_name("op", "qqqqqqqq", {"relu", "gelu"}), "no op named 'qqqqqqqq'; there are: relu, gelu");
    EXPECT_EQ(nearest_name("laerning_rate", {"steps", "learning_rate"}), "learning_rate");
}

TEST(Tensor, BufferIsZeroedAndMoves) {
    Buffer buffer(1000);
    EXPECT_EQ(buffer.bytes(), 1000);
    for (int i = 0; i < 1000; ++i)
        ASSERT_EQ(buffer.data()[i], std::byte{0});
    Buffer other = std::move(buffer);
    EXPECT_EQ(buffer.data(), nullptr);
    EXPECT_EQ(other.bytes(), 1000);
}

TEST(Tensor, ParallelCoversTheRangeOnce) {
    for (const int threads : {1, 2, 3}) {
        CpuStream stream(threads);
        for (const std::int64_t count : {0, 1, 7, 1000}) {
            std::vector<int> seen(static_cast<std::size_t>(count));
            stream.parallel(count, 3, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i)
                    ++seen[static_cast<std::size_t>(i)];
            });
            EXPECT_EQ(seen, std::vector<int>(static_cast<std::size_t>(count), 1));
        }
    }
}

} // namespace tensor_test
