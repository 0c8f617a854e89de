// SPDX-License-Identifier: Apache-2.0
// Conversions, copies and fills.
#include "kernels/copy.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <algorithm>
#include <vector>

using namespace tessera;

namespace copy_test {

template <class Device> class Copy : public testing::Test {};
TYPED_TEST_SUITE(Copy, Devices, DeviceNames);

TYPED_TEST(Copy, CastsEveryPairOfTypes) {
    TypeParam on;
    for (const std::int64_t size : {0, 1, 15, 16, 17, 1000, 300001}) {
        for (const DType from : {DType::f32, DType::bf16, DType::f16})
            for (const DType to : {DType::f32, DType::bf16, DType::f16}) {
                const Sample x(Shape{size}, from, 1);
                const Sample y(Shape{size}, to);
                Sample expected(Shape{size}, to);
                kernels::cast(on.stream(), on(x), on(y));
                on.finish();
                for (std::int64_t i = 0; i < size; ++i)
                    expected.set(i, x[i]);
                EXPECT_TRUE(y.same_bits(expected)) << size << " " << name_of(from) << " " << name_of(to);
            }
        const Sample tokens(Shape{size}, DType::i32, 1, 0, 1000), copy(Shape{size}, DType::i32);
        kernels::cast(on.stream(), on(tokens), on(copy));
        on.finish();
        EXPECT_TRUE(copy.same_bits(tokens));
    }
}

// Memory that starts in the middle of a vector, at either end.
TYPED_TEST(Copy, CastsUnalignedViews) {
    TypeParam on;
    constexpr std::int64_t size = 1000;
    const auto behind = [](const View& whole, std::int64_t elements) {
        return View(static_cast<std::byte*>(whole.memory()) + elements * bytes_of(whole.dtype), {size}, whole.dtype);
    };
    for (const std::int64_t before : {0, 1, 4})
        for (const std::int64_t after : {0, 1, 8}) {
            const Sample x(Shape{before + size}, DType::f32, 1), y(Shape{after + size}, DType::bf16);
            kernels::cast(on.stream(), behind(on(x), before), behind(on(y), after));
            on.finish();
            for (std::int64_t i = 0; i < size; ++i)
                ASSERT_EQ(y[after + i], static_cast<float>(BFloat16(static_cast<float>(x[before + i])))) << before;
        }
}

TYPED_TEST(Copy, ReplacesUnlessTheFactorIsZero) {
    TypeParam on;
    for (const std::int64_t size : {0, 1, 17, 200001})
        for (const double value : {0.0, 0.5, static_cast<double>(NAN)}) {
            const Sample x(Shape{size}, DType::f32, 1), y(Shape{size}, DType::f32, 2),
                before(Shape{size}, DType::f32, 2);
            Sample factor(Shape{}, DType::f32);
            factor.set(0, value);
            kernels::replace(on.stream(), on(factor), on(x), on(y));
            on.finish();
            EXPECT_TRUE(y.same_bits(value == 0 ? before : x)) << value;
        }
}

TYPED_TEST(Copy, FillsWithOneValue) {
    TypeParam on;
    for (const DType type : {DType::f32, DType::bf16, DType::f16})
        for (const std::int64_t size : {0, 1, 17, 200001}) {
            const Sample y(Shape{size}, type);
            kernels::fill(on.stream(), on(y), 1.5f);
            on.finish();
            EXPECT_EQ(y.values(), std::vector<double>(static_cast<std::size_t>(size), 1.5));
        }
}

TYPED_TEST(Copy, NumbersAndClassesDoNotMix) {
    TypeParam on;
    const Sample x(Shape{4}, DType::f32), tokens(Shape{4}, DType::i32), other(Shape{5}, DType::f32);
    EXPECT_THROW(kernels::cast(on.stream(), on(x), on(tokens)), InternalError);
    EXPECT_THROW(kernels::cast(on.stream(), on(x), on(other)), InternalError);
    EXPECT_THROW(kernels::fill(on.stream(), on(tokens), 0), InternalError);
}

TYPED_TEST(Copy, MovesBlocksAtSteps) {
    TypeParam on;
    for (const std::int64_t count : {0, 1, 7, 300})
        for (const std::int64_t width : {0, 1, 5, 64}) {
            const std::int64_t from_step = width + 3, to_step = width + 1; // in elements
            const Sample x(Shape{count * from_step + 2}, DType::bf16, 1), y(Shape{count * to_step + 1}, DType::bf16, 2);
            const Sample before(y);
            const View source = on(x), first(source.as<BFloat16>() + 2, {}, DType::bf16);
            kernels::copy_blocks(on.stream(), {count, width * 2, from_step * 2, to_step * 2}, first, on(y));
            on.finish();
            for (std::int64_t i = 0; i < y.count(); ++i) {
                const std::int64_t block = i / to_step, place = i % to_step;
                const bool moved = block < count && place < width;
                ASSERT_EQ(y[i], moved ? x[2 + block * from_step + place] : before[i]) << i;
            }
        }
}

// So large that it goes past the caches; where it begins and ends is not where a line does.
TEST(Copy, LargeDownloadsToAnywhere) {
    constexpr std::int64_t size = (1 << 20) + 37;
    std::vector<std::int32_t> from(size + 32), to(size + 32);
    for (std::size_t i = 0; i < from.size(); ++i)
        from[i] = static_cast<std::int32_t>(i * 2654435761u);
    for (const int threads : {1, 3})
        for (const std::size_t begin : {0, 1, 15, 16, 17}) {
            CpuStream stream(threads);
            std::fill(to.begin(), to.end(), -1);
            kernels::download(stream, ConstView(from.data() + 3, {size}, DType::i32),
                              View(to.data() + begin, {size}, DType::i32));
            const auto first = to.begin() + static_cast<std::ptrdiff_t>(begin);
            EXPECT_TRUE(std::equal(first, first + size, from.begin() + 3)) << begin;
            EXPECT_EQ(std::count(to.begin(), first, -1), static_cast<std::ptrdiff_t>(begin));
            EXPECT_EQ(std::count(first + size, to.end(), -1), static_cast<std::ptrdiff_t>(32 - begin)) << begin;
        }
}

} // namespace copy_test
