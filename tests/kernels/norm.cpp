// SPDX-License-Identifier: Apache-2.0
// Norms and their gradients against plain double loops and finite differences of them.
#include "kernels/norm.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

#include <cmath>

using namespace tessera;

namespace norm_test {

namespace {

constexpr float epsilon = 1e-5f;
constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

struct Sizes {
    std::int64_t rows, columns;
};
constexpr Sizes sizes[] = {{1, 1}, {3, 15}, {5, 16}, {2, 17}, {70, 129}, {33, 768}};
// For every way a row is held: by a warp, by a block, read again and again; the greatest and the next of each.
constexpr Sizes wide_sizes[] = {{9, 8},     {40, 256},  {3, 264},  {3, 512},  {2, 520},  {4, 768},
                                {2, 776},   {5, 1024},  {3, 1032}, {2, 1500}, {1, 8192}, {1, 8200},
                                {1, 16384}, {1, 16392}, {1, 9001}, {40, 257}};
// More than one round of each block.
constexpr Sizes long_sizes[] = {{4300, 24}, {300, 12}, {270, 1040}};

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
          dy(Shape{size.rows, size.columns}, type, 4), y(poisoned(x.view().shape, type)),
          mean(poisoned(Shape{size.rows}, DType::f32)), rstd(mean), dx(y),
          dscale(poisoned(Shape{size.columns}, DType::f32)), dbias(dscale) {}

    template <class Device> void run(Device& on) {
        auto& stream = on.stream();
        const std::int64_t bytes = kernels::norm_gradient_workspace_bytes(stream, mean.count(), scale.count());
        const Sample workspace = poisoned(Shape{bytes / 4}, DType::f32);
        const View no_bias;
        if (centered) {
            kernels::layer_norm(stream, on(x), on(scale), with_bias ? on(bias) : no_bias, epsilon, on(y), on(mean),
                                on(rstd));
            kernels::layer_norm_gradient(stream, on(x), on(scale), on(mean), on(rstd), on(dy), on(dx), on(dscale),
                                         with_bias ? on(dbias) : no_bias, on(workspace));
        } else {
            kernels::rms_norm(stream, on(x), on(scale), epsilon, on(y), on(rstd));
            kernels::rms_norm_gradient(stream, on(x), on(scale), on(rstd), on(dy), on(dx), on(dscale), on(workspace));
        }
        on.finish();
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

    // The formulas of the header in double.
    void expect_gradients_by_formula(DType type) const {
        const std::int64_t columns = scale.count(), rows = mean.count();
        const auto count = static_cast<double>(columns);
        const auto width = static_cast<std::size_t>(columns);
        Doubles found, sizes_of_dx, of_scale(width), of_bias(width), sizes_of_scale(width), sizes_of_bias(width);
        const Doubles input = x.values(), factor = scale.values(), ones(width, 1);
        for (std::int64_t r = 0; r < rows; ++r) {
            const Row row = norm_of_row(centered, input.data() + r * columns, ones, {}); // y is h
            double mean_of_g = 0, mean_of_product = 0;
            for (std::size_t c = 0; c < width; ++c) {
                const double g = dy[r * columns + static_cast<std::int64_t>(c)];
                if (centered) mean_of_g += g * factor[c] / count;
                mean_of_product += g * factor[c] * row.y[c] / count;
                of_scale[c] += g * row.y[c];
                sizes_of_scale[c] += std::abs(g * row.y[c]) + std::abs(g);
                of_bias[c] += g;
                sizes_of_bias[c] += std::abs(g);
            }
            for (std::size_t c = 0; c < width; ++c) {
                const double g = dy[r * columns + static_cast<std::int64_t>(c)] * factor[c];
                found.push_back(row.rstd * (g - mean_of_g - row.y[c] * mean_of_product));
                sizes_of_dx.push_back(row.rstd *
                                      (std::abs(g) + std::abs(mean_of_g) + std::abs(row.y[c] * mean_of_product)));
            }
        }
        EXPECT_TRUE(close_to(dx, found, tolerance(type, Kind::norm), sizes_of_dx));
        EXPECT_TRUE(close_to(dscale, of_scale, tolerance(DType::f32, Kind::norm), sizes_of_scale));
        if (with_bias) {
            EXPECT_TRUE(close_to(dbias, of_bias, tolerance(DType::f32, Kind::sum), sizes_of_bias));
        }
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

template <class Device> class Norm : public testing::Test {};
TYPED_TEST_SUITE(Norm, Devices, DeviceNames);

} // namespace

TYPED_TEST(Norm, ForwardEqualsTheFormula) {
    TypeParam on;
    for (const DType type : types)
        for (const Sizes size : sizes)
            for (const auto& [centered, bias] : norms) {
                SCOPED_TRACE(testing::Message()
                             << size.rows << " x " << size.columns << (centered ? " layer" : " rms"));
                Case test(centered, bias, size, type);
                test.run(on);
                test.expect_forward(tolerance(type, Kind::norm), tolerance(DType::f32, Kind::norm));
            }
}

TYPED_TEST(Norm, GradientsEqualFiniteDifferences) {
    TypeParam on;
    for (const DType type : types)
        for (const Sizes size : {Sizes{1, 2}, {3, 15}, {5, 16}, {2, 17}, {70, 33}, {4, 129}})
            for (const auto& [centered, bias] : norms) {
                SCOPED_TRACE(testing::Message()
                             << size.rows << " x " << size.columns << (centered ? " layer" : " rms"));
                Case test(centered, bias, size, type);
                test.run(on);
                test.expect_gradients(type);
            }
}

TYPED_TEST(Norm, AConstantRowGivesTheBias) {
    TypeParam on;
    Case test(true, true, {2, 20}, DType::f32);
    for (std::int64_t i = 0; i < test.x.count(); ++i)
        test.x.set(i, 7);
    test.run(on);
    for (std::int64_t i = 0; i < test.x.count(); ++i)
        EXPECT_NEAR(test.y[i], test.bias[i % 20], 1e-4);
}

TYPED_TEST(Norm, TheGradientMayOverwriteDy) {
    TypeParam on;
    for (const std::int64_t columns : {100, 96, 2048}) {
        Case apart(true, true, {40, columns}, DType::bf16), in_place(apart);
        apart.run(on);
        const Sample workspace(Shape{kernels::norm_gradient_workspace_bytes(on.stream(), 40, columns)}, DType::f32);
        kernels::layer_norm_gradient(on.stream(), on(apart.x), on(apart.scale), on(apart.mean), on(apart.rstd),
                                     on(in_place.dy), on(in_place.dy), on(in_place.dscale), {}, on(workspace));
        on.finish();
        EXPECT_TRUE(in_place.dy.same_bits(apart.dx));
        EXPECT_TRUE(in_place.dscale.same_bits(apart.dscale));
    }
}

TYPED_TEST(Norm, RowsOfAnyWidth) {
    TypeParam on;
    int turn = 0;
    for (const DType type : types)
        for (const Sizes size : wide_sizes)
            for (const auto& [centered, bias] : norms) {
                if (size.columns > 1024 && turn++ % 4 != 0) continue; // each of them in some type
                SCOPED_TRACE(testing::Message()
                             << size.rows << " x " << size.columns << (centered ? " layer" : " rms"));
                Case test(centered, bias, size, type);
                test.run(on);
                test.expect_forward(tolerance(type, Kind::norm), tolerance(DType::f32, Kind::norm));
                test.expect_gradients_by_formula(type);
            }
}

TYPED_TEST(Norm, AnyNumberOfRows) {
    TypeParam on;
    for (const Sizes size : long_sizes) {
        SCOPED_TRACE(testing::Message() << size.rows << " x " << size.columns);
        Case test(true, true, size, DType::f32);
        test.run(on);
        test.expect_forward(tolerance(DType::f32, Kind::norm), tolerance(DType::f32, Kind::norm));
        test.expect_gradients_by_formula(DType::f32);
    }
}

// Parts of tensors that begin at their second row, of an odd count of elements.
TYPED_TEST(Norm, ElementsAlignedToThemselvesOnly) {
    TypeParam on;
    for (const DType type : types) {
        constexpr std::int64_t columns = 24;
        Case test(true, true, {5, columns}, type);
        test.run(on);
        const auto moved = [](const Sample& sample) {
            const Sample result(Shape{1 + sample.count()}, sample.dtype());
            std::memcpy(static_cast<char*>(result.view().memory()) + bytes_of(sample.dtype()), sample.view().data,
                        static_cast<std::size_t>(sample.bytes()));
            return result;
        };
        const Sample x = moved(test.x), dy = moved(test.dy), y = poisoned(Shape{1 + 5 * columns}, type), dx(y);
        const Sample mean(test.mean), rstd(test.rstd), dscale(test.dscale), dbias(test.dbias);
        const Sample workspace(Shape{kernels::norm_gradient_workspace_bytes(on.stream(), 5, columns)}, DType::f32);
        const auto part = [&](const Sample& sample) {
            return View(static_cast<char*>(on(sample).memory()) + bytes_of(type), {5, columns}, type);
        };
        kernels::layer_norm(on.stream(), part(x), on(test.scale), on(test.bias), epsilon, part(y), on(mean), on(rstd));
        kernels::layer_norm_gradient(on.stream(), part(x), on(test.scale), on(mean), on(rstd), part(dy), part(dx),
                                     on(dscale), on(dbias), on(workspace));
        on.finish();
        const auto expect_near = [&](const Sample& found, const Sample& expected, std::int64_t shift) {
            const Tolerance allowed = tolerance(found.dtype(), Kind::norm);
            for (std::int64_t i = 0; i < expected.count(); ++i)
                ASSERT_NEAR(found[i + shift], expected[i], 10 * (allowed.relative + allowed.absolute)) << i;
        };
        expect_near(y, test.y, 1);
        expect_near(dx, test.dx, 1);
        expect_near(mean, test.mean, 0);
        expect_near(rstd, test.rstd, 0);
        expect_near(dscale, test.dscale, 0);
        expect_near(dbias, test.dbias, 0);
    }
}

TYPED_TEST(Norm, NoRowsHaveNoGradient) {
    TypeParam on;
    for (const bool centered : {true, false}) {
        Case test(centered, centered, {0, 40}, DType::bf16);
        test.run(on);
        EXPECT_EQ(test.dscale.values(), Doubles(40));
        if (centered) {
            EXPECT_EQ(test.dbias.values(), Doubles(40));
        }
    }
}

TYPED_TEST(Norm, TheSameBitsInTwoRuns) {
    for (const Sizes size : {Sizes{4999, 40}, {300, 1048}, {100, 101}}) {
        TypeParam on, other;
        Case first(true, true, size, DType::bf16), second(true, true, size, DType::bf16);
        first.run(on);
        second.run(other);
        for (Sample Case::*result : {&Case::y, &Case::rstd, &Case::mean, &Case::dx, &Case::dscale, &Case::dbias})
            EXPECT_TRUE((first.*result).same_bits(second.*result));
    }
}

TYPED_TEST(Norm, WrongSizesAreRefused) {
    TypeParam on;
    Case test(true, true, {4, 8}, DType::f32);
    const Sample small(Shape{3}, DType::f32);
    EXPECT_THROW(
        kernels::layer_norm(on.stream(), on(test.x), on(small), {}, epsilon, on(test.y), on(test.mean), on(test.rstd)),
        InternalError);
    EXPECT_THROW(kernels::rms_norm_gradient(on.stream(), on(test.x), on(test.scale), on(test.rstd), on(test.dy),
                                            on(test.dx), on(test.dscale), on(small)),
                 InternalError);
}

TEST(NormThreads, TheSameBitsForAnyThreads) {
    for (const bool centered : {true, false})
        for (const DType type : types)
            for (Sample Case::*result : {&Case::y, &Case::rstd, &Case::mean, &Case::dx, &Case::dscale, &Case::dbias})
                expect_same_bits_for_any_threads([&](CpuStream& stream) {
                    Case test(centered, centered, {1001, 129}, type);
                    OnCpu on(stream.threads());
                    test.run(on);
                    return test.*result;
                });
}

} // namespace norm_test
