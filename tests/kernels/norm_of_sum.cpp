// SPDX-License-Identifier: Apache-2.0
// The norm of a sum made in the same pass: the bits of add and the norm; its gradient: the norm's and what is added.
#include "kernels/elementwise.hpp"
#include "kernels/error.hpp"
#include "kernels/norm.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

using namespace tessera;

namespace norm_of_sum_test {

namespace {

constexpr float epsilon = 1e-5f;
constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr bool kinds[] = {true, false}; // centered: layer norm

struct Sizes {
    std::int64_t rows, columns;
};
constexpr Sizes sizes[] = {{1, 1},    {3, 15},    {5, 24},    {20, 129}, {9, 768}, {3, 1024},
                           {3, 2048}, {1, 16384}, {1, 16392}, {300, 16}, {0, 16}};

// Inputs and results of both passes, by either norm.
struct Case {
    bool centered;
    Sample a, b, scale, bias, dy, dsum, sum, y, mean, rstd, dx, dscale, dbias;

    Case(bool is_centered, Sizes size, DType type)
        : centered(is_centered), a(Shape{size.rows, size.columns}, type, 1), b(a.view().shape, type, 2, -1, 3),
          scale(Shape{size.columns}, DType::f32, 3), bias(Shape{size.columns}, DType::f32, 4),
          dy(a.view().shape, type, 5), dsum(a.view().shape, type, 6), sum(poisoned(a.view().shape, type)), y(sum),
          mean(poisoned(Shape{size.rows}, DType::f32)), rstd(mean), dx(sum),
          dscale(poisoned(Shape{size.columns}, DType::f32)), dbias(dscale) {}

    template <class Device> void forward(Device& on, const Sample& to) {
        if (centered)
            kernels::add_layer_norm(on.stream(), on(a), on(b), on(scale), on(bias), epsilon, on(to), on(y), on(mean),
                                    on(rstd));
        else
            kernels::add_rms_norm(on.stream(), on(a), on(b), on(scale), epsilon, on(to), on(y), on(rstd));
        on.finish();
    }

    template <class Device> void backward(Device& on, const Sample& to) {
        const Sample workspace = workspace_on(on);
        if (centered)
            kernels::add_layer_norm_gradient(on.stream(), on(sum), on(scale), on(mean), on(rstd), on(dy), on(dsum),
                                             on(to), on(dscale), on(dbias), on(workspace));
        else
            kernels::add_rms_norm_gradient(on.stream(), on(sum), on(scale), on(rstd), on(dy), on(dsum), on(to),
                                           on(dscale), on(workspace));
        on.finish();
    }

    // The same in two kernels.
    template <class Device> void forward_apart(Device& on) {
        kernels::add(on.stream(), on(a), on(b), on(sum));
        if (centered)
            kernels::layer_norm(on.stream(), on(sum), on(scale), on(bias), epsilon, on(y), on(mean), on(rstd));
        else
            kernels::rms_norm(on.stream(), on(sum), on(scale), epsilon, on(y), on(rstd));
        on.finish();
    }

    // The norm's gradient alone, in f32.
    template <class Device> Sample norm_gradient(Device& on) {
        const auto wide = [](const Sample& narrow) {
            Sample result(narrow.view().shape, DType::f32);
            for (std::int64_t i = 0; i < narrow.count(); ++i)
                result.set(i, narrow[i]);
            return result;
        };
        const Sample x = wide(sum), g = wide(dy), result = poisoned(x.view().shape, DType::f32);
        const Sample workspace = workspace_on(on);
        if (centered)
            kernels::layer_norm_gradient(on.stream(), on(x), on(scale), on(mean), on(rstd), on(g), on(result),
                                         on(dscale), on(dbias), on(workspace));
        else
            kernels::rms_norm_gradient(on.stream(), on(x), on(scale), on(rstd), on(g), on(result), on(dscale),
                                       on(workspace));
        on.finish();
        return result;
    }

private:
    template <class Device> Sample workspace_on(Device& on) const {
        const std::int64_t bytes = kernels::norm_gradient_workspace_bytes(on.stream(), mean.count(), scale.count());
        return poisoned(Shape{bytes / 4}, DType::f32);
    }
};

std::string label(bool centered, Sizes size, DType type) {
    return std::to_string(size.rows) + " x " + std::to_string(size.columns) + (centered ? " layer " : " rms ") +
           std::string(name_of(type));
}

template <class Device> class NormOfSum : public testing::Test {};
TYPED_TEST_SUITE(NormOfSum, Devices, DeviceNames);

} // namespace

TYPED_TEST(NormOfSum, TheBitsOfTheSumAndTheNorm) {
    TypeParam on;
    for (const DType type : types)
        for (const Sizes size : sizes)
            for (const bool centered : kinds) {
                SCOPED_TRACE(label(centered, size, type));
                Case together(centered, size, type), apart(together);
                together.forward(on, together.sum);
                apart.forward_apart(on);
                for (Sample Case::*result : {&Case::sum, &Case::y, &Case::mean, &Case::rstd})
                    if (centered || result != &Case::mean) {
                        EXPECT_TRUE((together.*result).same_bits(apart.*result));
                    }
                Case in_place(centered, size, type);
                in_place.forward(on, in_place.b);
                EXPECT_TRUE(in_place.b.same_bits(apart.sum));
                EXPECT_TRUE(in_place.y.same_bits(apart.y));
                Case in_the_other(centered, size, type);
                in_the_other.forward(on, in_the_other.a);
                EXPECT_TRUE(in_the_other.a.same_bits(apart.sum));
            }
}

TYPED_TEST(NormOfSum, TheGradientAddsWhatReachesTheSum) {
    TypeParam on;
    int turn = 0;
    for (const DType type : types)
        for (const Sizes size : sizes)
            for (const bool centered : kinds) {
                if (size.columns > 1024 && turn++ % 5 != 0) continue; // each of them in some type
                SCOPED_TRACE(label(centered, size, type));
                Case test(centered, size, type);
                test.forward(on, test.sum);
                Case alone(test);
                test.backward(on, test.dx);
                const Sample dx = alone.norm_gradient(on);
                std::vector<double> expected, magnitudes;
                for (std::int64_t i = 0; i < dx.count(); ++i) {
                    expected.push_back(dx[i] + test.dsum[i]);
                    magnitudes.push_back(std::abs(dx[i]) + std::abs(test.dsum[i]));
                }
                EXPECT_TRUE(close_to(test.dx, expected, tolerance(type, Kind::norm), magnitudes));
                EXPECT_TRUE(close_to(test.dscale, alone.dscale.values(), tolerance(DType::f32, Kind::sum)));
                if (centered) {
                    EXPECT_TRUE(close_to(test.dbias, alone.dbias.values(), tolerance(DType::f32, Kind::sum)));
                }
                Case over_dsum(test);
                over_dsum.backward(on, over_dsum.dsum);
                EXPECT_TRUE(over_dsum.dsum.same_bits(test.dx));
                Case over_dy(test);
                over_dy.backward(on, over_dy.dy);
                EXPECT_TRUE(over_dy.dy.same_bits(test.dx));
                EXPECT_TRUE(over_dy.dscale.same_bits(test.dscale));
            }
}

TYPED_TEST(NormOfSum, WrongSizesAreRefused) {
    TypeParam on;
    Case test(true, {4, 8}, DType::f32);
    const Sample small(Shape{3}, DType::f32), narrow(Shape{4, 8}, DType::bf16);
    const Sample workspace(Shape{1000}, DType::f32);
    const auto forward = [&](const Sample& a, const Sample& b) {
        kernels::add_layer_norm(on.stream(), on(a), on(b), on(test.scale), {}, epsilon, on(test.sum), on(test.y),
                                on(test.mean), on(test.rstd));
    };
    EXPECT_THROW(forward(small, test.b), InternalError);
    EXPECT_THROW(forward(test.a, small), InternalError);
    EXPECT_THROW(forward(test.a, narrow), InternalError);
    EXPECT_THROW(kernels::add_rms_norm_gradient(on.stream(), on(test.sum), on(test.scale), on(test.rstd), on(test.dy),
                                                on(small), on(test.dx), on(test.dscale), on(workspace)),
                 InternalError);
}

TEST(NormOfSumThreads, TheSameBitsForAnyThreads) {
    for (const bool centered : kinds)
        for (const DType type : types)
            for (Sample Case::*result : {&Case::sum, &Case::y, &Case::dx, &Case::dscale})
                expect_same_bits_for_any_threads([&](CpuStream& stream) {
                    Case test(centered, {501, 129}, type);
                    OnCpu on(stream.threads());
                    test.forward(on, test.sum);
                    test.backward(on, test.dx);
                    return test.*result;
                });
}

} // namespace norm_of_sum_test
