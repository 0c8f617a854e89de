// SPDX-License-Identifier: Apache-2.0
// Norms and their gradients against plain double loops and finite differences of them.
#include "kernels/norm.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

#include <cmath>

using namespace tessera;

namespace {

constexpr float epsilon = 1e-5f;
constexpr DType types[] = {DType::f32, DType::bf16};

struct Sizes {
    std::int64_t rows, columns;
};
constexpr Sizes sizes[] = {{1, 1}, {3, 15}, {5, 16}, {2, 17}, {70, 129}, {33, 768}};

constexpr std::pair<bool, bool> norms[] = {{true, true}, {true, false}, {false, false}}; // centered, with a bias

using Doubles = std::vector<double>;

struct Row {
    Doubles y;
    double mean, rstd;
};

Row norm_of_row(bool centered, const double* x, const Doubles& scale, const Doubles& bias) {
    const auto columns = scale.size();
    double mean = 0, square = 0;
    for (std::size_t c = 0; c < columns && centered; ++c)
        mean += x[c] / static_cast<double>(columns);
    for (std::size_t c = 0; c < columns; ++c)
        square += (x[c] - mean) * (x[c] - mean) / static_cast<double>(columns);
    Row row{Doubles(columns), mean, 1 / std::sqrt(square + static_cast<double>(epsilon))};
    for (std::size_t c = 0; c < columns; ++c)
        row.y[c] = (x[c] - mean) * row.rstd * scale[c] + (bias.empty() ? 0 : bias[c]);
    return row;
}

// One case: inputs, the kernel's results, all of them by either norm.
struct Case {
    bool centered, with_bias;
    Sample x, scale, bias, dy, y, mean, rstd, dx, dscale, dbias;

    Case(bool is_centered, bool has_bias, Sizes size, DType type)
        : centered(is_centered), with_bias(has_bias), x(Shape{size.rows, size.columns}, type, 1, -1, 3),
          scale(Shape{size.columns}, DType::f32, 2), bias(Shape{size.columns}, DType::f32, 3),
          dy(Shape{size.rows, size.columns}, type, 4), y(x.view().shape, type), mean(Shape{size.rows}, DType::f32),
          rstd(Shape{size.rows}, DType::f32), dx(x.view().shape, type), dscale(Shape{size.columns}, DType::f32, 5),
          dbias(Shape{size.columns}, DType::f32, 6) {}

    void run(CpuStream& stream) {
        const std::int64_t bytes = kernels::norm_gradient_workspace_bytes(stream, mean.count(), scale.count());
        const Sample workspace(Shape{bytes / 4}, DType::f32, 7); // not zeros
        const View no_bias;
        if (centered) {
            kernels::layer_norm(stream, x.view(), scale.view(), with_bias ? bias.view() : no_bias, epsilon, y.view(),
                                mean.view(), rstd.view());
            kernels::layer_norm_gradient(stream, x.view(), scale.view(), mean.view(), rstd.view(), dy.view(), dx.view(),
                                         dscale.view(), with_bias ? dbias.view() : no_bias, workspace.view());
        } else {
            kernels::rms_norm(stream, x.view(), scale.view(), epsilon, y.view(), rstd.view());
            kernels::rms_norm_gradient(stream, x.view(), scale.view(), rstd.view(), dy.view(), dx.view(), dscale.view(),
                                       workspace.view());
        }
    }

    void expect_forward(Tolerance narrow, Tolerance wide) const {
        Doubles values, means, factors;
        const Doubles input = x.values(), factor = scale.values(), offset = with_bias ? bias.values() : Doubles{};
        for (std::int64_t r = 0; r < mean.count(); ++r) {
            const Row row = norm_of_row(centered, input.data() + r * scale.count(), factor, offset);
            values.insert(values.end(), row.y.begin(), row.y.end());
            means.push_back(row.mean);
            factors.push_back(row.rstd);
        }
        EXPECT_TRUE(close_to(y, values, narrow));
        EXPECT_TRUE(close_to(rstd, factors, wide));
        if (!centered) return;
        EXPECT_TRUE(close_to(mean, means, wide));
    }

    // sum_c dy[r,c] * y[r,c] of one row as a function of the row and the parameters
    double loss(std::int64_t r, const double* row, const Doubles& factor, const Doubles& offset) const {
        const Row result = norm_of_row(centered, row, factor, offset);
        double total = 0;
        for (std::int64_t c = 0; c < scale.count(); ++c)
            total += dy[r * scale.count() + c] * result.y[static_cast<std::size_t>(c)];
        return total;
    }

    void expect_gradients(DType type) const {
        const Doubles input = x.values(), factor = scale.values(), offset = with_bias ? bias.values() : Doubles{};
        const std::int64_t columns = scale.count(), rows = mean.count();
        Doubles slopes, of_scale(factor.size()), of_bias(factor.size()), magnitudes(factor.size());
        for (std::int64_t r = 0; r < rows; ++r) {
            const double* start = input.data() + r * columns;
            const Doubles row(start, start + columns);
            for (std::size_t c = 0; c < factor.size(); ++c) {
                slopes.push_back(slope(row, c, [&](const Doubles& at) { return loss(r, at.data(), factor, offset); }));
                const double part = slope(factor, c, [&](const Doubles& at) { return loss(r, start, at, offset); });
                of_scale[c] += part;
                magnitudes[c] += std::abs(part) + std::abs(dy[r * columns + static_cast<std::int64_t>(c)]);
                of_bias[c] += dy[r * columns + static_cast<std::int64_t>(c)];
            }
        }
        const Doubles size_of_dx(slopes.size(), 10); // slopes of nearly constant rows cancel
        EXPECT_TRUE(close_to(dx, slopes, tolerance(type, Kind::finite_difference),
                             type == DType::f32 ? size_of_dx : Doubles{}));
        EXPECT_TRUE(close_to(dscale, of_scale, tolerance(DType::f32, Kind::finite_difference), magnitudes));
        if (!with_bias) return;
        EXPECT_TRUE(close_to(dbias, of_bias, tolerance(DType::f32, Kind::sum), magnitudes));
    }
};

} // namespace

TEST(Norm, ForwardEqualsTheFormula) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const Sizes size : sizes)
            for (const auto& [centered, bias] : norms) {
                SCOPED_TRACE(testing::Message()
                             << size.rows << " x " << size.columns << (centered ? " layer" : " rms"));
                Case test(centered, bias, size, type);
                test.run(stream);
                test.expect_forward(tolerance(type, Kind::norm), tolerance(DType::f32, Kind::norm));
            }
}

TEST(Norm, GradientsEqualFiniteDifferences) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const Sizes size : {Sizes{1, 2}, {3, 15}, {5, 16}, {2, 17}, {70, 33}, {4, 129}})
            for (const auto& [centered, bias] : norms) {
                SCOPED_TRACE(testing::Message()
                             << size.rows << " x " << size.columns << (centered ? " layer" : " rms"));
                Case test(centered, bias, size, type);
                test.run(stream);
                test.expect_gradients(type);
            }
}

TEST(Norm, AConstantRowGivesTheBias) {
    CpuStream stream;
    Case test(true, true, {2, 20}, DType::f32);
    for (std::int64_t i = 0; i < test.x.count(); ++i)
        test.x.set(i, 7);
    test.run(stream);
    for (std::int64_t i = 0; i < test.x.count(); ++i)
        EXPECT_NEAR(test.y[i], test.bias[i % 20], 1e-4);
}

TEST(Norm, TheGradientMayOverwriteDy) {
    CpuStream stream(2);
    Case apart(true, true, {40, 100}, DType::bf16), in_place(apart);
    apart.run(stream);
    const Sample workspace(Shape{kernels::norm_gradient_workspace_bytes(stream, 40, 100)}, DType::f32);
    kernels::layer_norm_gradient(stream, apart.x.view(), apart.scale.view(), apart.mean.view(), apart.rstd.view(),
                                 in_place.dy.view(), in_place.dy.view(), in_place.dscale.view(), {}, workspace.view());
    EXPECT_TRUE(in_place.dy.same_bits(apart.dx));
    EXPECT_TRUE(in_place.dscale.same_bits(apart.dscale));
}

TEST(Norm, TheSameBitsForAnyThreads) {
    for (const bool centered : {true, false})
        for (const DType type : types)
            for (Sample Case::*result : {&Case::y, &Case::rstd, &Case::mean, &Case::dx, &Case::dscale, &Case::dbias})
                expect_same_bits_for_any_threads([&](CpuStream& stream) {
                    Case test(centered, centered, {1001, 129}, type);
                    test.run(stream);
                    return test.*result;
                });
}

TEST(Norm, WrongSizesAreRefused) {
    CpuStream stream;
    Case test(true, true, {4, 8}, DType::f32);
    const Sample small(Shape{3}, DType::f32);
    EXPECT_THROW(kernels::layer_norm(stream, test.x.view(), small.view(), {}, epsilon, test.y.view(), test.mean.view(),
                                     test.rstd.view()),
                 InternalError);
    EXPECT_THROW(kernels::rms_norm_gradient(stream, test.x.view(), test.scale.view(), test.rstd.view(), test.dy.view(),
                                            test.dx.view(), test.dscale.view(), small.view()),
                 InternalError);
}
