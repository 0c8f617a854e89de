// SPDX-License-Identifier: Apache-2.0
// Shapes, bf16 rounding, buffers and the sentence for an unknown name.
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

TEST(Tensor, ShapeCountsSlicesAndPrints) {
    const Shape shape{12, 64, 3, 4, 32};
    EXPECT_EQ(shape.count(), 12 * 64 * 3 * 4 * 32);
    EXPECT_EQ(shape[-1], 32);
    EXPECT_EQ(shape.count(2, 5), 384);
    EXPECT_EQ(shape.slice(1, 3), (Shape{64, 3}));
    EXPECT_EQ(shape.text(), "(12, 64, 3, 4, 32)");
    EXPECT_EQ(Shape{}.count(), 1);
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
