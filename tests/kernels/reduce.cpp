// SPDX-License-Identifier: Apache-2.0
// Sums over rows, of squares by blocks, and over trees.
#include "kernels/reduce.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <deque>
#include <limits>

using namespace tessera;

namespace reduce_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

void poison(Sample& sample) {
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, std::numeric_limits<double>::quiet_NaN());
}

// The sums of x without its first `skipped` elements.
template <class Device> Sample row_sums(Device& on, const Sample& x, std::int64_t columns, std::int64_t skipped = 0) {
    Sample y(Shape{columns}, DType::f32);
    poison(y);
    const View rows(static_cast<std::byte*>(on(x).memory()) + skipped * bytes_of(x.dtype()), {x.count() - skipped},
                    x.dtype());
    const std::int64_t bytes = kernels::sum_rows_workspace_bytes(on.stream(), rows.count() / columns, columns);
    Sample workspace(Shape{(bytes + 3) / 4}, DType::f32);
    poison(workspace);
    kernels::sum_rows(on.stream(), rows, on(y), on(workspace));
    on.finish();
    return y;
}

std::int64_t square_blocks(std::int64_t size) {
    return (size + kernels::square_sum_block - 1) / kernels::square_sum_block;
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

template <class Device> class Reduce : public testing::Test {};
TYPED_TEST_SUITE(Reduce, Devices, DeviceNames);

TYPED_TEST(Reduce, RowsAreSummed) {
    TypeParam on;
    for (const DType type : types)
        for (const std::int64_t columns : {1, 15, 16, 17, 65, 129, 256, 264, 512, 770})
            for (const std::int64_t rows : {0, 1, 31, 32, 33, 65, 100, 2500}) {
                const Sample x(Shape{rows, columns}, type, 1);
                std::vector<double> expected(static_cast<std::size_t>(columns)), magnitudes(expected);
                for (std::int64_t i = 0; i < x.count(); ++i) {
                    expected[static_cast<std::size_t>(i % columns)] += x[i];
                    magnitudes[static_cast<std::size_t>(i % columns)] += std::abs(x[i]);
                }
                EXPECT_TRUE(close_to(row_sums(on, x, columns), expected, tolerance(DType::f32, Kind::sum), magnitudes))
                    << rows << " x " << columns;
            }
}

TYPED_TEST(Reduce, RowsAreSummedTheSameWhereverTheyLie) {
    TypeParam on;
    for (const DType type : types)
        for (const std::int64_t columns : {8, 264}) {
            const Sample x(Shape{700, columns}, type, 1);
            const Sample sums = row_sums(on, x, columns);
            EXPECT_TRUE(row_sums(on, x, columns).same_bits(sums));
            for (const std::int64_t skipped : {1, 2, 5}) {
                Sample shifted(Shape{skipped + x.count()}, type);
                for (std::int64_t i = 0; i < x.count(); ++i)
                    shifted.set(skipped + i, x[i]);
                EXPECT_TRUE(row_sums(on, shifted, columns, skipped).same_bits(sums)) << skipped;
            }
        }
}

TYPED_TEST(Reduce, SquaresAreSummedByBlocks) {
    TypeParam on;
    std::deque<Sample> x, sums;
    std::vector<View> from, to;
    for (int round = 0; round < 15; ++round) // more tensors than one launch takes
        for (const std::int64_t size : {0, 1, 15, 16, 17, 64, 129, 4095, 4096, 4097, round == 0 ? 300000 : 9000}) {
            x.emplace_back(Shape{size}, DType::f32, static_cast<unsigned>(x.size()));
            sums.emplace_back(Shape{square_blocks(size)}, DType::f32);
            poison(sums.back());
            from.push_back(on(x.back()));
            to.push_back(on(sums.back()));
        }
    kernels::square_sums(on.stream(), from, to);
    on.finish();
    for (std::size_t tensor = 0; tensor < x.size(); ++tensor) {
        std::vector<double> expected(static_cast<std::size_t>(sums[tensor].count()));
        for (std::int64_t i = 0; i < x[tensor].count(); ++i)
            expected[static_cast<std::size_t>(i / kernels::square_sum_block)] += x[tensor][i] * x[tensor][i];
        EXPECT_TRUE(close_to(sums[tensor], expected, tolerance(DType::f32, Kind::sum))) << x[tensor].count();
    }
}

TYPED_TEST(Reduce, SquaresAreSummedTheSameWhereverTheyLie) {
    TypeParam on;
    const Sample x(Shape{5000}, DType::f32, 1), sums(Shape{2}, DType::f32), other(Shape{2}, DType::f32);
    Sample shifted(Shape{5001}, DType::f32);
    for (std::int64_t i = 0; i < 5000; ++i)
        shifted.set(1 + i, x[i]);
    const View from = on(x), to = on(sums), there = on(other);
    const View behind(static_cast<float*>(on(shifted).memory()) + 1, {5000}, DType::f32);
    kernels::square_sums(on.stream(), {&from, 1}, {&to, 1});
    kernels::square_sums(on.stream(), {&behind, 1}, {&there, 1});
    on.finish();
    EXPECT_TRUE(other.same_bits(sums));
}

TYPED_TEST(Reduce, ElementsAreSummedInATree) {
    TypeParam on;
    for (const std::int64_t size : {1,    2,    3,    5,    7,    15,   16,   17,    1000,  1023,  1024,
                                    1025, 2048, 4095, 4096, 4097, 5000, 9001, 20001, 28672, 70000, 131073}) {
        const Sample x(Shape{size}, DType::f32, 1), y(Shape{}, DType::f32);
        kernels::sum(on.stream(), on(x), on(y));
        on.finish();
        EXPECT_EQ(y[0], tree(x.view().template as<float>(), size)) << size;
        double expected = 0, magnitude = 0;
        for (const double value : x.values()) {
            expected += value;
            magnitude += std::abs(value);
        }
        EXPECT_TRUE(close_to(y, {expected}, tolerance(DType::f32, Kind::sum), {magnitude})) << size;
    }
    const Sample nothing(Shape{0}, DType::f32), y(Shape{}, DType::f32, 1);
    kernels::sum(on.stream(), on(nothing), on(y));
    on.finish();
    EXPECT_EQ(y[0], 0);
    EXPECT_FALSE(std::signbit(y[0]));
    for (const std::int64_t size : {1, 3, 4096, 4099}) {
        Sample zeros(Shape{size}, DType::f32);
        for (std::int64_t i = 0; i < size; ++i)
            zeros.set(i, -0.0);
        kernels::sum(on.stream(), on(zeros), on(y));
        on.finish();
        EXPECT_EQ(std::signbit(y[0]), std::signbit(tree(zeros.view().template as<float>(), size)));
    }
}

TYPED_TEST(Reduce, ManyTensorsAreSummedAsEachAlone) {
    TypeParam on;
    std::deque<Sample> x;
    std::vector<View> views;
    for (std::int64_t tensor = 0; tensor < 200; ++tensor) {
        x.emplace_back(Shape{tensor % 50 == 7 ? 10000 + tensor : tensor}, DType::f32, static_cast<unsigned>(tensor));
        views.push_back(on(x.back()));
        if (tensor % 3 == 0 && tensor > 0) { // not aligned
            View& view = views.back();
            view = View(static_cast<float*>(view.memory()) + 1, {view.count() - 1}, DType::f32);
        }
    }
    Sample y(Shape{200}, DType::f32);
    poison(y);
    kernels::sums(on.stream(), views, on(y));
    on.finish();
    EXPECT_EQ(y[0], 0);
    for (std::int64_t tensor = 1; tensor < 200; ++tensor) {
        const Sample& sample = x[static_cast<std::size_t>(tensor)];
        const std::int64_t skipped = tensor % 3 == 0 ? 1 : 0;
        EXPECT_EQ(y[tensor], tree(sample.view().template as<float>() + skipped, sample.count() - skipped)) << tensor;
    }
}

TEST(ReduceOnCpu, TheSameBitsForAnyThreads) {
    for (const DType type : types) {
        const Sample x(Shape{5001, 129}, type, 1);
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            OnCpu on(stream.threads());
            return row_sums(on, x, 129);
        });
        EXPECT_EQ(kernels::sum_rows_workspace_bytes(CpuStream(1), 5001, 129),
                  kernels::sum_rows_workspace_bytes(CpuStream(3), 5001, 129));
    }
    const Sample x(Shape{600001}, DType::f32, 1);
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        Sample sums(Shape{147}, DType::f32);
        const View from = x.view(), to = sums.view();
        kernels::square_sums(stream, {&from, 1}, {&to, 1});
        return sums;
    });
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        Sample total(Shape{}, DType::f32);
        kernels::sum(stream, x.view(), total.view());
        return total;
    });
}

TYPED_TEST(Reduce, WrongSizesAreRefused) {
    TypeParam on;
    const Sample x(Shape{7}, DType::f32), y(Shape{2}, DType::f32), small(Shape{1}, DType::f32);
    EXPECT_THROW(kernels::sum_rows(on.stream(), on(x), on(y), on(small)), InternalError);
    const Sample tall(Shape{7000}, DType::f32), seven(Shape{7}, DType::f32); // more than 4 bytes are needed
    EXPECT_THROW(kernels::sum_rows(on.stream(), on(tall), on(seven), on(small)), InternalError);
    const View from = on(x), to = on(y);
    EXPECT_THROW(kernels::square_sums(on.stream(), {&from, 1}, {&to, 1}), InternalError);
    EXPECT_THROW(kernels::square_sums(on.stream(), {&from, 1}, {}), InternalError);
    EXPECT_THROW(kernels::sums(on.stream(), {&from, 1}, to), InternalError);
    EXPECT_THROW(kernels::sum(on.stream(), on(x), on(y)), InternalError);
}

} // namespace reduce_test
