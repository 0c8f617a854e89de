// SPDX-License-Identifier: Apache-2.0
// Batch norm against its formulas in double; the sums of parts of the rows make up those of the whole.
#include "kernels/batch_norm.hpp"

#include "kernels/reduce.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

#include <cmath>

using namespace tessera;

namespace batch_norm_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr float epsilon = 1e-3f;
constexpr std::pair<std::int64_t, std::int64_t> sizes[] = {{1, 3},   {7, 1},    {33, 17},  {64, 16},  {100, 8},
                                                           {65, 40}, {2100, 5}, {700, 64}, {130, 264}};

using Doubles = std::vector<double>;

struct Case {
    std::int64_t rows, columns;
    Sample x, dy, scale, bias, sums, squares, y, dsums, dx, moments;

    // `middle`: of x, far from 0 where squares of x themselves would lose all
    Case(std::int64_t row_count, std::int64_t column_count, DType type, double middle = 3)
        : rows(row_count), columns(column_count), x(Shape{rows, columns}, type, 1, middle - 1, middle + 1),
          dy(Shape{rows, columns}, type, 2), scale(Shape{columns}, DType::f32, 3), bias(Shape{columns}, DType::f32, 4),
          sums(poisoned(Shape{columns}, DType::f32)), squares(sums), y(poisoned(Shape{rows, columns}, type)),
          dsums(poisoned(Shape{2, columns}, DType::f32)), dx(y), moments(poisoned(Shape{3, columns}, DType::f32)) {}

    template <class Device> void run(Device& on) {
        auto& stream = on.stream();
        const Sample workspace =
            poisoned(Shape{kernels::batch_norm_workspace_bytes(stream, rows, columns) / 4}, DType::f32);
        const Sample for_sums =
            poisoned(Shape{kernels::sum_rows_workspace_bytes(stream, rows, columns) / 4}, DType::f32);
        kernels::sum_rows(stream, on(x), on(sums), on(for_sums));
        kernels::centered_squares(stream, on(x), on(sums), rows, on(squares), on(workspace));
        kernels::batch_norm(stream, on(x), on(sums), on(squares), rows, on(scale), on(bias), epsilon, on(y));
        kernels::batch_norm_gradient_sums(stream, on(dy), on(x), on(sums), on(squares), rows, epsilon, on(dsums),
                                          on(workspace));
        kernels::batch_norm_gradient(stream, on(dy), on(x), on(sums), on(squares), rows, on(scale), on(dsums), epsilon,
                                     on(dx));
        kernels::batch_moments(stream, on(sums), on(squares), rows, on(moments));
        on.finish();
    }

    void expect(DType type) const {
        const auto n = static_cast<double>(rows);
        Doubles of_y(static_cast<std::size_t>(x.count())), of_dx(of_y), of_dsums(static_cast<std::size_t>(2 * columns)),
            size_of_dx(of_y), size_of_dsums(of_dsums), of_moments(static_cast<std::size_t>(3 * columns), 1);
        for (std::int64_t c = 0; c < columns; ++c) {
            const auto at = [&](std::int64_t r) { return r * columns + c; };
            const auto place = [&](std::int64_t i) { return static_cast<std::size_t>(i); };
            double mean = 0, square = 0, product = 0, sum = 0;
            for (std::int64_t r = 0; r < rows; ++r)
                mean += x[at(r)] / n;
            for (std::int64_t r = 0; r < rows; ++r)
                square += (x[at(r)] - mean) * (x[at(r)] - mean);
            const double rstd = 1 / std::sqrt(square / n + static_cast<double>(epsilon));
            for (std::int64_t r = 0; r < rows; ++r) {
                const double h = (x[at(r)] - mean) * rstd;
                of_y[place(at(r))] = h * scale[c] + bias[c];
                product += dy[at(r)] * h;
                sum += dy[at(r)];
                size_of_dsums[place(c)] += std::abs(dy[at(r)]) * (std::abs(h) + rstd);
                size_of_dsums[place(columns + c)] += std::abs(dy[at(r)]);
            }
            for (std::int64_t r = 0; r < rows; ++r) {
                const double h = (x[at(r)] - mean) * rstd;
                of_dx[place(at(r))] = scale[c] * rstd * (dy[at(r)] - sum / n - h * product / n);
                size_of_dx[place(at(r))] =
                    std::abs(scale[c]) * rstd *
                    (std::abs(dy[at(r)]) + std::abs(sum / n) + (std::abs(h) + rstd) * (1 + std::abs(product / n)));
            }
            of_dsums[place(c)] = product;
            of_dsums[place(columns + c)] = sum;
            of_moments[place(c)] = mean;
            of_moments[place(columns + c)] = square / std::max(n - 1, 1.0);
        }
        const Tolerance narrow = tolerance(type, Kind::norm), wide = tolerance(DType::f32, Kind::norm);
        EXPECT_TRUE(close_to(y, of_y, narrow, Doubles(of_y.size(), 10)));
        EXPECT_TRUE(close_to(dsums, of_dsums, wide, size_of_dsums));
        EXPECT_TRUE(close_to(dx, of_dx, narrow, size_of_dx));
        EXPECT_TRUE(close_to(moments, of_moments, wide));
    }
};

} // namespace

template <class Device> class BatchNorm : public testing::Test {};
TYPED_TEST_SUITE(BatchNorm, Devices, DeviceNames);

TYPED_TEST(BatchNorm, FollowsItsFormulas) {
    for (const DType type : types)
        for (const auto& [rows, columns] : sizes) {
            SCOPED_TRACE(testing::Message() << name_of(type) << " " << rows << " x " << columns);
            TypeParam on;
            Case one(rows, columns, type);
            one.run(on);
            one.expect(type);
        }
}

// A variance as the difference of large squares would be noise here.
TYPED_TEST(BatchNorm, KeepsTheVarianceOfWhatIsFarFromZero) {
    TypeParam on;
    Case one(500, 20, DType::f32, 1000);
    one.run(on);
    for (std::int64_t c = 0; c < 20; ++c) {
        double mean = 0, square = 0;
        for (std::int64_t r = 0; r < 500; ++r)
            mean += one.x[r * 20 + c] / 500;
        for (std::int64_t r = 0; r < 500; ++r)
            square += (one.x[r * 20 + c] - mean) * (one.x[r * 20 + c] - mean);
        EXPECT_NEAR(one.squares[c] / square, 1, 1e-5);
    }
}

// Of given sums over all rows, each part of the rows gives its summand and its elements.
TYPED_TEST(BatchNorm, PartsOfTheRowsMakeUpTheWhole) {
    TypeParam on;
    constexpr std::int64_t rows = 90, columns = 24, cut = 37;
    Case one(rows, columns, DType::f32);
    one.run(on);
    Doubles squares(columns), dsums(2 * columns), magnitudes(2 * columns, 90);
    for (const auto& [begin, end] : {std::pair(std::int64_t{0}, cut), std::pair(cut, rows)}) {
        const std::int64_t count = end - begin;
        Sample x(Shape{count, columns}, DType::f32), dy(x), y = poisoned(x.view().shape, DType::f32);
        for (std::int64_t i = 0; i < x.count(); ++i) {
            x.set(i, one.x[begin * columns + i]);
            dy.set(i, one.dy[begin * columns + i]);
        }
        Sample part = poisoned(Shape{columns}, DType::f32), part_of_dsums = poisoned(Shape{2, columns}, DType::f32);
        auto& stream = on.stream();
        const Sample workspace =
            poisoned(Shape{kernels::batch_norm_workspace_bytes(stream, count, columns) / 4}, DType::f32);
        kernels::centered_squares(stream, on(x), on(one.sums), rows, on(part), on(workspace));
        kernels::batch_norm_gradient_sums(stream, on(dy), on(x), on(one.sums), on(one.squares), rows, epsilon,
                                          on(part_of_dsums), on(workspace));
        kernels::batch_norm(stream, on(x), on(one.sums), on(one.squares), rows, on(one.scale), on(one.bias), epsilon,
                            on(y));
        on.finish();
        for (std::size_t c = 0; c < squares.size(); ++c)
            squares[c] += part[static_cast<std::int64_t>(c)];
        for (std::size_t c = 0; c < dsums.size(); ++c)
            dsums[c] += part_of_dsums[static_cast<std::int64_t>(c)];
        for (std::int64_t i = 0; i < y.count(); ++i)
            EXPECT_EQ(y[i], one.y[begin * columns + i]);
    }
    EXPECT_TRUE(close_to(one.squares, squares, tolerance(DType::f32, Kind::sum)));
    EXPECT_TRUE(close_to(one.dsums, dsums, tolerance(DType::f32, Kind::sum), magnitudes));
}

TYPED_TEST(BatchNorm, RunningStatisticsFollowTheMeanOfTheBatches) {
    for (const double factor : {0.5, 0.0}) {
        TypeParam on;
        Sample moments(Shape{3, 2}, DType::f32), mean(Shape{2}, DType::f32), variance(mean), by(Shape{1}, DType::f32);
        const Doubles of_moments{6, 30, 12, 9, 3, 0}; // the second channel has no batch
        for (std::size_t i = 0; i < of_moments.size(); ++i)
            moments.set(static_cast<std::int64_t>(i), of_moments[i]);
        for (std::int64_t c = 0; c < 2; ++c) {
            mean.set(c, 1);
            variance.set(c, 2);
        }
        by.set(0, factor);
        kernels::running_statistics(on.stream(), on(moments), on(by), 0.25f, on(mean), on(variance));
        on.finish();
        const bool moves = factor != 0;
        EXPECT_EQ(mean.values(), moves ? (Doubles{1.25, 1}) : (Doubles{1, 1}));
        EXPECT_EQ(variance.values(), moves ? (Doubles{2.5, 2}) : (Doubles{2, 2}));
    }
}

TEST(BatchNorm, SameBitsForAnyNumberOfThreads) {
    OnCpu one(1);
    Case expected(2100, 70, DType::f32);
    expected.run(one);
    for (const int threads : {2, 3}) {
        OnCpu on(threads);
        Case found(2100, 70, DType::f32);
        found.run(on);
        EXPECT_TRUE(found.y.same_bits(expected.y));
        EXPECT_TRUE(found.squares.same_bits(expected.squares));
        EXPECT_TRUE(found.dsums.same_bits(expected.dsums));
        EXPECT_TRUE(found.dx.same_bits(expected.dx));
    }
}

} // namespace batch_norm_test
