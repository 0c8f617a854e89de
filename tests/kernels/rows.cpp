// SPDX-License-Identifier: Apache-2.0
// Rows that lie apart, against plain loops.
#include "kernels/rows.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

using namespace tessera;

namespace rows_test {

namespace {

using kernels::RowPlaces;

struct Case {
    kernels::Rows rows;
    RowPlaces from, to;
};

const std::vector<Case> cases = {
    {{2, 5, 7}, {3, 11, 61}, {0, 7, 35}},  {{2, 5, 7}, {0, 7, 35}, {4, 9, 50}},
    {{1, 1, 1}, {0, 0, 0}, {0, 0, 0}},     {{3, 4, 64}, {64, 192, 800}, {0, 64, 256}},
    {{4, 1, 33}, {33, 0, 66}, {0, 0, 33}}, {{0, 4, 8}, {0, 8, 32}, {0, 8, 32}},
    {{2, 3, 0}, {0, 8, 32}, {0, 8, 32}},   {{2, 700, 40}, {0, 120, 84000}, {1, 40, 28001}},
};

std::int64_t end_of(const kernels::Rows& rows, const RowPlaces& places) {
    return places.first + rows.batch * places.batch_step + rows.rows * places.row_step + rows.columns;
}

// What y becomes; every element that no row covers stays.
Sample expected_of(const Case& one, const Sample& x, const Sample& y, bool add) {
    Sample result(y);
    for (std::int64_t b = 0; b < one.rows.batch; ++b)
        for (std::int64_t r = 0; r < one.rows.rows; ++r)
            for (std::int64_t c = 0; c < one.rows.columns; ++c) {
                const std::int64_t at = one.to.first + b * one.to.batch_step + r * one.to.row_step + c;
                const double value = x[one.from.first + b * one.from.batch_step + r * one.from.row_step + c];
                result.set(at, add ? static_cast<float>(y[at]) + static_cast<float>(value) : value);
            }
    return result;
}

template <class Device> class RowsThatLieApart : public testing::Test {};
TYPED_TEST_SUITE(RowsThatLieApart, Devices, DeviceNames);

} // namespace

TYPED_TEST(RowsThatLieApart, AreCopiedInEveryPairOfTypes) {
    for (const Case& one : cases)
        for (const DType from : {DType::f32, DType::bf16, DType::f16})
            for (const DType to : {DType::f32, DType::bf16, DType::f16}) {
                TypeParam on;
                const Sample x(Shape{end_of(one.rows, one.from)}, from, 1), y(Shape{end_of(one.rows, one.to)}, to, 2);
                const Sample expected = expected_of(one, x, y, false);
                kernels::copy_rows(on.stream(), one.rows, on(x), one.from, on(y), one.to);
                on.finish();
                EXPECT_TRUE(y.same_bits(expected)) << one.rows.rows << " " << name_of(from) << " " << name_of(to);
            }
}

TYPED_TEST(RowsThatLieApart, AreAddedInF32) {
    for (const Case& one : cases)
        for (const DType from : {DType::f32, DType::bf16, DType::f16}) {
            TypeParam on;
            const Sample x(Shape{end_of(one.rows, one.from)}, from, 1);
            const Sample y(Shape{end_of(one.rows, one.to)}, DType::f32, 2);
            const Sample expected = expected_of(one, x, y, true);
            kernels::accumulate_rows(on.stream(), one.rows, on(x), one.from, on(y), one.to);
            on.finish();
            EXPECT_TRUE(y.same_bits(expected)) << one.rows.rows << " " << name_of(from);
        }
}

TYPED_TEST(RowsThatLieApart, AreNumbers) {
    TypeParam on;
    const Sample x(Shape{8}, DType::f32), tokens(Shape{8}, DType::i32), half(Shape{8}, DType::bf16);
    const kernels::Rows rows{1, 1, 8};
    EXPECT_THROW(kernels::copy_rows(on.stream(), rows, on(tokens), {}, on(x), {}), InternalError);
    EXPECT_THROW(kernels::copy_rows(on.stream(), rows, on(x), {}, on(tokens), {}), InternalError);
    EXPECT_THROW(kernels::accumulate_rows(on.stream(), rows, on(x), {}, on(half), {}), InternalError);
}

} // namespace rows_test
