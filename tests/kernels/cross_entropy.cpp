// SPDX-License-Identifier: Apache-2.0
// Cross entropy and its gradient against plain double loops; the vocabulary of a character model and of GPT-2.
#include "kernels/cross_entropy.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

#include <cmath>

using namespace tessera;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};

struct Sizes {
    std::int64_t rows, classes;
};
constexpr Sizes sizes[] = {{1, 1}, {3, 15}, {5, 16}, {4, 17}, {130, 65}, {7, 1000}, {3, 4096}, {3, 4097}, {2, 50257}};

double loss_of(const std::vector<double>& logits, std::size_t target) {
    double highest = logits[0], sum = 0;
    for (const double logit : logits)
        highest = std::max(highest, logit);
    for (const double logit : logits)
        sum += std::exp(logit - highest);
    return std::log(sum) + highest - logits[target];
}

struct Case {
    Sample logits, targets, scale, losses, dlogits;

    Case(Sizes size, DType type)
        : logits(Shape{size.rows, size.classes}, type, 1, -8, 8),
          targets(Shape{size.rows}, DType::i32, 2, 0, static_cast<double>(size.classes)), scale(Shape{}, DType::f32),
          losses(Shape{size.rows}, DType::f32, 3), dlogits(Shape{size.rows, size.classes}, type, 4) {
        scale.set(0, 0.125);
        if (size.rows > 2) targets.set(1, kernels::ignore_index);
    }
    void run(CpuStream& stream, bool in_place = false) {
        kernels::cross_entropy_with_gradient(stream, logits.view(), targets.view(), scale.view(), losses.view(),
                                             in_place ? logits.view() : dlogits.view());
    }
    std::vector<double> row(std::int64_t r) const {
        const std::int64_t classes = logits.count() / targets.count();
        std::vector<double> result;
        for (std::int64_t c = 0; c < classes; ++c)
            result.push_back(logits[r * classes + c]);
        return result;
    }
};

} // namespace

TEST(CrossEntropy, LossesAndGradientsEqualTheFormula) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const Sizes size : sizes) {
            SCOPED_TRACE(testing::Message() << size.rows << " x " << size.classes);
            Case test(size, type);
            test.run(stream);
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
            }
            EXPECT_TRUE(close_to(test.losses, losses, tolerance(DType::f32, Kind::loss)));
            EXPECT_TRUE(close_to(test.dlogits, gradients, tolerance(type, Kind::function)));
            const Sample alone(Shape{size.rows}, DType::f32, 5);
            kernels::cross_entropy(stream, test.logits.view(), test.targets.view(), alone.view());
            EXPECT_TRUE(alone.same_bits(test.losses));
        }
}

TEST(CrossEntropy, GradientsEqualFiniteDifferences) {
    CpuStream stream;
    Case test({3, 17}, DType::f32);
    test.run(stream);
    std::vector<double> expected;
    for (std::int64_t r = 0; r < 3; ++r)
        for (std::size_t c = 0; c < 17; ++c)
            expected.push_back(r == 1 ? 0 : 0.125 * slope(test.row(r), c, [&](const std::vector<double>& at) {
                                                return loss_of(at, static_cast<std::size_t>(test.targets[r]));
                                            }));
    EXPECT_TRUE(close_to(test.dlogits, expected, tolerance(DType::f32, Kind::finite_difference)));
}

TEST(CrossEntropy, TheGradientMayOverwriteTheLogits) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const Sizes size : {Sizes{40, 65}, {3, 5000}}) {
            Case apart(size, type), in_place(size, type);
            apart.run(stream);
            in_place.run(stream, true);
            EXPECT_TRUE(in_place.logits.same_bits(apart.dlogits));
            EXPECT_TRUE(in_place.losses.same_bits(apart.losses));
        }
}

TEST(CrossEntropy, LargeLogitsDoNotOverflowAndNanIsSeen) {
    CpuStream stream;
    Case test({2, 20}, DType::f32);
    for (std::int64_t i = 0; i < 20; ++i)
        test.logits.set(i, 1000.0 + static_cast<double>(i));
    test.logits.set(25, std::nan(""));
    test.run(stream);
    EXPECT_NEAR(test.losses[0], loss_of(test.row(0), static_cast<std::size_t>(test.targets[0])), 1e-4);
    EXPECT_TRUE(std::isnan(test.losses[1]));
}

TEST(CrossEntropy, TheSameBitsForAnyThreads) {
    for (const DType type : types)
        for (const Sizes size : {Sizes{1001, 65}, {6, 50257}})
            for (Sample Case::*result : {&Case::losses, &Case::dlogits})
                expect_same_bits_for_any_threads([&](CpuStream& stream) {
                    Case test(size, type);
                    test.run(stream);
                    return test.*result;
                });
}

TEST(CrossEntropy, ATargetOutsideTheVocabularyIsNamed) {
    CpuStream stream;
    for (const int wrong : {70, 65, -2}) {
        Case test({8, 65}, DType::f32);
        test.targets.set(5, wrong);
        try {
            test.run(stream);
            FAIL();
        } catch (const ConfigError& error) {
            EXPECT_EQ(error.what(),
                      "target " + std::to_string(wrong) + " at position 5 is outside the vocabulary of 65");
        }
    }
}
