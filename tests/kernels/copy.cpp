// SPDX-License-Identifier: Apache-2.0
// Conversions, copies and fills.
#include "kernels/copy.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

using namespace tessera;

TEST(Copy, CastsEveryPairOfTypes) {
    for (const std::int64_t size : {0, 1, 15, 16, 17, 1000, 300001}) {
        CpuStream stream(3);
        for (const DType from : {DType::f32, DType::bf16})
            for (const DType to : {DType::f32, DType::bf16}) {
                const Sample x(Shape{size}, from, 1);
                const Sample y(Shape{size}, to);
                Sample expected(Shape{size}, to);
                kernels::cast(stream, x.view(), y.view());
                for (std::int64_t i = 0; i < size; ++i)
                    expected.set(i, x[i]);
                EXPECT_TRUE(y.same_bits(expected)) << size << " " << name_of(from) << " " << name_of(to);
            }
        const Sample tokens(Shape{size}, DType::i32, 1, 0, 1000), copy(Shape{size}, DType::i32);
        kernels::cast(stream, tokens.view(), copy.view());
        EXPECT_TRUE(copy.same_bits(tokens));
    }
}

TEST(Copy, FillsWithOneValue) {
    CpuStream stream(2);
    for (const DType type : {DType::f32, DType::bf16})
        for (const std::int64_t size : {0, 1, 17, 200001}) {
            const Sample y(Shape{size}, type);
            kernels::fill(stream, y.view(), 1.5f);
            EXPECT_EQ(y.values(), std::vector<double>(static_cast<std::size_t>(size), 1.5));
        }
}

TEST(Copy, NumbersAndClassesDoNotMix) {
    CpuStream stream;
    const Sample x(Shape{4}, DType::f32), tokens(Shape{4}, DType::i32), other(Shape{5}, DType::f32);
    EXPECT_THROW(kernels::cast(stream, x.view(), tokens.view()), InternalError);
    EXPECT_THROW(kernels::cast(stream, x.view(), other.view()), InternalError);
    EXPECT_THROW(kernels::fill(stream, tokens.view(), 0), InternalError);
}
