// SPDX-License-Identifier: Apache-2.0
// Cross entropy and its gradient against plain double loops; the vocabulary of a character model and of GPT-2.
#include "kernels/cross_entropy.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <limits>

using namespace tessera;

namespace cross_entropy_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

struct Sizes {
    std::int64_t rows, classes;
    std::int64_t padding = 0; // columns behind the classes

    std::int64_t columns() const { return classes + padding; }
};
constexpr Sizes sizes[] = {{1, 1},     {3, 15},    {5, 16},     {4, 17},        {130, 65},     {7, 1000},
                           {9, 1024},  {9, 1025},  {3, 4096},   {3, 4097},      {5, 8193},     {3, 50257},
                           {3, 50304}, {5, 17, 1}, {9, 65, 63}, {3, 4097, 127}, {3, 50257, 47}};

double loss_of(const std::vector<double>& logits, std::size_t target) {
    double highest = logits[0], sum = 0;
    for (const double logit : logits)
        highest = std::max(highest, logit);
    for (const double logit : logits)
        sum += std::exp(logit - highest);
    return std::log(sum) + highest - logits[target];
}

struct Case {
    Sizes size;
    Sample logits, targets, scale, losses, dlogits;

    Case(Sizes of, DType type)
        : size(of), logits(Shape{size.rows, size.columns()}, type, 1, -8, 8),
          targets(Shape{size.rows}, DType::i32, 2, 0, static_cast<double>(size.classes)), scale(Shape{}, DType::f32),
          losses(Shape{size.rows}, DType::f32), dlogits(Shape{size.rows, size.columns()}, type) {
        scale.set(0, 0.125);
        if (size.rows > 2) targets.set(1, kernels::ignore_index);
        for (Sample* result : {&losses, &dlogits})
            for (std::int64_t i = 0; i < result->count(); ++i)
                result->set(i, std::numeric_limits<double>::quiet_NaN());
        for (std::int64_t r = 0; r < size.rows; ++r) // whoever reads padding is seen
            for (std::int64_t c = size.classes; c < size.columns(); ++c)
                logits.set(r * size.columns() + c, std::numeric_limits<double>::quiet_NaN());
    }
    template <class Device> void run(Device& on, bool in_place = false) {
        kernels::cross_entropy_with_gradient(on.stream(), size.classes, on(logits), on(targets), on(scale), on(losses),
                                             on(in_place ? logits : dlogits));
        on.finish();
    }
    std::vector<double> row(std::int64_t r) const {
        std::vector<double> result;
        for (std::int64_t c = 0; c < size.classes; ++c)
            result.push_back(logits[r * size.columns() + c]);
        return result;
    }
};

} // namespace

template <class Device> class CrossEntropy : public testing::Test {};
TYPED_TEST_SUITE(CrossEntropy, Devices, DeviceNames);

TYPED_TEST(CrossEntropy, LossesAndGradientsEqualTheFormula) {
    TypeParam on;
    for (const DType type : types)
        for (const Sizes size : sizes) {
            SCOPED_TRACE(testing::Message() << size.rows << " x " << size.classes << " + " << size.padding);
            Case test(size, type);
            test.run(on);
            std::vector<double> losses, gradients;
            for (std::int64_t r = 0; r < size.rows; ++r) {
                const std::vector<double> row = test.row(r);
                const bool ignored = test.targets[r] == kernels::ignore_index;
                losses.push_back(ignored ? 0 : loss_of(row, static_cast<std::size_t>(test.targets[r])));
                const double log_of_sum = loss_of(row, 0) + row[0];
                for (std::size_t c = 0; c < row.size(); ++c) {
                    const double chosen = static_cast<double>(c) == test.targets[r];
                    gradients.push_back(ignored ? 0 : 0.125 * (std::exp(row[c] - log_of_sum) - chosen));
                }
                gradients.resize(gradients.size() + static_cast<std::size_t>(size.padding));
            }
            EXPECT_TRUE(close_to(test.losses, losses, tolerance(DType::f32, Kind::loss)));
            EXPECT_TRUE(close_to(test.dlogits, gradients, tolerance(type, Kind::function)));
            const Sample alone(Shape{size.rows}, DType::f32, 5);
            kernels::cross_entropy(on.stream(), size.classes, on(test.logits), on(test.targets), on(alone));
            on.finish();
            EXPECT_TRUE(alone.same_bits(test.losses));
        }
}

TYPED_TEST(CrossEntropy, GradientsEqualFiniteDifferences) {
    TypeParam on;
    Case test({3, 17}, DType::f32);
    test.run(on);
    std::vector<double> expected;
    for (std::int64_t r = 0; r < 3; ++r)
        for (std::size_t c = 0; c < 17; ++c)
            expected.push_back(r == 1 ? 0 : 0.125 * slope(test.row(r), c, [&](const std::vector<double>& at) {
                                                return loss_of(at, static_cast<std::size_t>(test.targets[r]));
                                            }));
    EXPECT_TRUE(close_to(test.dlogits, expected, tolerance(DType::f32, Kind::finite_difference)));
}

TYPED_TEST(CrossEntropy, TheGradientMayOverwriteTheLogits) {
    TypeParam on;
    for (const DType type : types)
        for (const Sizes size : {Sizes{40, 65}, {3, 5000}, {3, 10001}, {4, 65, 7}, {3, 5000, 120}}) {
            Case apart(size, type), in_place(size, type);
            apart.run(on);
            in_place.run(on, true);
            EXPECT_TRUE(in_place.logits.same_bits(apart.dlogits));
            EXPECT_TRUE(in_place.losses.same_bits(apart.losses));
        }
}

TYPED_TEST(CrossEntropy, TheSameBitsTwiceAndWhereverTheLogitsLie) {
    for (const DType type : types)
        for (const Sizes size : {Sizes{41, 65}, {3, 4100}, {3, 50257}, {3, 4100, 124}}) {
            TypeParam on;
            Case first(size, type), second(size, type);
            first.run(on);
            second.run(on);
            EXPECT_TRUE(second.losses.same_bits(first.losses));
            EXPECT_TRUE(second.dlogits.same_bits(first.dlogits));
            for (const std::int64_t skipped : {1, 2, 7}) {
                Sample shifted(Shape{skipped + size.rows * size.columns()}, type);
                for (std::int64_t i = 0; i < first.logits.count(); ++i)
                    shifted.set(skipped + i, first.logits[i]);
                const View there(static_cast<std::byte*>(on(shifted).memory()) + skipped * bytes_of(type),
                                 first.logits.view().shape, type);
                kernels::cross_entropy_with_gradient(on.stream(), size.classes, there, on(first.targets),
                                                     on(first.scale), on(second.losses), there);
                on.finish();
                EXPECT_TRUE(second.losses.same_bits(first.losses));
                for (std::int64_t i = 0; i < first.dlogits.count(); ++i)
                    ASSERT_EQ(shifted[skipped + i], first.dlogits[i]) << i;
            }
        }
}

TYPED_TEST(CrossEntropy, LogitsOfMinusInfinityHaveNoShare) {
    for (const Sizes size : {Sizes{3, 65}, {3, 2000}, {3, 9001}}) {
        TypeParam on;
        Case test(size, DType::f32);
        for (const std::int64_t r : {0, 2})
            test.targets.set(r, static_cast<double>(size.classes - 1));
        for (std::int64_t i = 0; i < test.logits.count(); ++i)
            if ((i % 7 != 0 || i % size.classes < size.classes / 2) && i % size.classes != size.classes - 1)
                test.logits.set(i, -std::numeric_limits<double>::infinity());
        test.run(on);
        for (const std::int64_t r : {0, 2}) {
            const double loss = loss_of(test.row(r), static_cast<std::size_t>(test.targets[r]));
            EXPECT_NEAR(test.losses[r], loss, tolerance(DType::f32, Kind::loss).absolute * 4);
            for (std::int64_t i = r * size.classes; i < (r + 1) * size.classes; ++i)
                if (std::isinf(test.logits[i])) {
                    ASSERT_EQ(test.dlogits[i], 0) << i;
                }
        }
    }
}

TYPED_TEST(CrossEntropy, LargeLogitsDoNotOverflowAndNanIsSeen) {
    TypeParam on;
    Case test({2, 20}, DType::f32);
    for (std::int64_t i = 0; i < 20; ++i)
        test.logits.set(i, 1000.0 + static_cast<double>(i));
    test.logits.set(25, std::nan(""));
    test.run(on);
    EXPECT_NEAR(test.losses[0], loss_of(test.row(0), static_cast<std::size_t>(test.targets[0])), 1e-4);
    EXPECT_TRUE(std::isnan(test.losses[1]));
}

TEST(CrossEntropyOnCpu, TheSameBitsForAnyThreads) {
    for (const DType type : types)
        for (const Sizes size : {Sizes{1001, 65}, {6, 50257}})
            for (Sample Case::*result : {&Case::losses, &Case::dlogits})
                expect_same_bits_for_any_threads([&](CpuStream& stream) {
                    Case test(size, type);
                    OnCpu on(stream.threads());
                    test.run(on);
                    return test.*result;
                });
}

TYPED_TEST(CrossEntropy, ATargetOutsideTheVocabularyIsNamed) {
    for (const int wrong : {70, 65, -2}) {
        TypeParam on;
        Case test({8, 65}, DType::f32);
        test.targets.set(5, wrong);
        try {
            test.run(on);
            FAIL();
        } catch (const ConfigError& error) {
            EXPECT_EQ(error.what(),
                      "target " + std::to_string(wrong) + " at position 5 is outside the vocabulary of 65");
        }
    }
}

} // namespace cross_entropy_test
