// SPDX-License-Identifier: Apache-2.0
// Sums over rows, of squares by blocks, and over trees.
#include "kernels/reduce.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

#include <cmath>

using namespace tessera;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};

Sample row_sums(CpuStream& stream, const Sample& x, std::int64_t columns) {
    Sample y(Shape{columns}, DType::f32, 8);
    const std::int64_t bytes = kernels::sum_rows_workspace_bytes(stream, x.count() / columns, columns);
    const Sample workspace(Shape{bytes / 4}, DType::f32, 9);
    kernels::sum_rows(stream, x.view(), y.view(), workspace.view());
    return y;
}

// The definition, by recursion: the left half is the largest power of two below the count.
float tree(const float* x, std::int64_t count) {
    if (count == 1) return *x;
    std::int64_t left = 1;
    while (2 * left < count)
        left *= 2;
    return tree(x, left) + tree(x + left, count - left);
}

} // namespace

TEST(Reduce, RowsAreSummed) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const std::int64_t columns : {1, 15, 16, 17, 65, 129, 512})
            for (const std::int64_t rows : {0, 1, 31, 32, 33, 100, 2500}) {
                const Sample x(Shape{rows, columns}, type, 1);
                std::vector<double> expected(static_cast<std::size_t>(columns)), magnitudes(expected);
                for (std::int64_t i = 0; i < x.count(); ++i) {
                    expected[static_cast<std::size_t>(i % columns)] += x[i];
                    magnitudes[static_cast<std::size_t>(i % columns)] += std::abs(x[i]);
                }
                EXPECT_TRUE(
                    close_to(row_sums(stream, x, columns), expected, tolerance(DType::f32, Kind::sum), magnitudes))
                    << rows << " x " << columns;
            }
}

TEST(Reduce, SquaresAreSummedByBlocks) {
    CpuStream stream(3);
    for (const std::int64_t size : {0, 1, 15, 16, 17, 64, 129, 4095, 4096, 4097, 300000}) {
        const std::int64_t blocks = (size + kernels::square_sum_block - 1) / kernels::square_sum_block;
        const Sample x(Shape{size}, DType::f32, 1), sums(Shape{blocks}, DType::f32);
        kernels::square_sums(stream, x.view(), sums.view());
        std::vector<double> expected(static_cast<std::size_t>(blocks));
        for (std::int64_t i = 0; i < size; ++i)
            expected[static_cast<std::size_t>(i / kernels::square_sum_block)] += x[i] * x[i];
        EXPECT_TRUE(close_to(sums, expected, tolerance(DType::f32, Kind::sum))) << size;
    }
}

TEST(Reduce, ElementsAreSummedInATree) {
    CpuStream stream;
    for (const std::int64_t size : {1, 2, 3, 5, 7, 15, 16, 17, 1000, 1023, 1024, 1025, 2048, 5000}) {
        const Sample x(Shape{size}, DType::f32, 1), y(Shape{}, DType::f32);
        kernels::sum(stream, x.view(), y.view());
        EXPECT_EQ(y[0], tree(x.view().as<float>(), size)) << size;
        double expected = 0, magnitude = 0;
        for (const double value : x.values()) {
            expected += value;
            magnitude += std::abs(value);
        }
        EXPECT_TRUE(close_to(y, {expected}, tolerance(DType::f32, Kind::sum), {magnitude})) << size;
    }
    const Sample nothing(Shape{0}, DType::f32), y(Shape{}, DType::f32, 1);
    kernels::sum(stream, nothing.view(), y.view());
    EXPECT_EQ(y[0], 0);
}

TEST(Reduce, TheSameBitsForAnyThreads) {
    for (const DType type : types) {
        const Sample x(Shape{5001, 129}, type, 1);
        expect_same_bits_for_any_threads([&](CpuStream& stream) { return row_sums(stream, x, 129); });
        EXPECT_EQ(kernels::sum_rows_workspace_bytes(CpuStream(1), 5001, 129),
                  kernels::sum_rows_workspace_bytes(CpuStream(3), 5001, 129));
    }
    const Sample x(Shape{600001}, DType::f32, 1);
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        Sample sums(Shape{147}, DType::f32);
        kernels::square_sums(stream, x.view(), sums.view());
        return sums;
    });
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        Sample total(Shape{}, DType::f32);
        kernels::sum(stream, x.view(), total.view());
        return total;
    });
}

TEST(Reduce, WrongSizesAreRefused) {
    CpuStream stream;
    const Sample x(Shape{7}, DType::f32), y(Shape{2}, DType::f32), small(Shape{1}, DType::f32);
    EXPECT_THROW(kernels::sum_rows(stream, x.view(), y.view(), small.view()), InternalError);
    EXPECT_THROW(kernels::sum_rows(stream, x.view(), x.view(), small.view()), InternalError); // 28 bytes are needed
    EXPECT_THROW(kernels::square_sums(stream, x.view(), y.view()), InternalError);
}
