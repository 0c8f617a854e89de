// SPDX-License-Identifier: Apache-2.0
// Convolutions through oneDNN against plain loops in double; skipped in a build without it.
#include "kernels/cpu/convolution_onednn.hpp"

#include "tests/kernels/convolution_sums.hpp"

#include <omp.h>
#include <random>
#include <thread>

using namespace tessera;

namespace convolution_test {

namespace {

using kernels::ConvolutionDirection;

constexpr ConvolutionDirection directions[] = {ConvolutionDirection::forward, ConvolutionDirection::input_gradient,
                                               ConvolutionDirection::weight_gradient};

struct Named {
    Convolution shape;
    DType dtype;
    std::vector<bool> by_onednn; // forward, gradient of the input, of the weight
};

// A row or more of each class in the rule, batches that divide into slices and that do not, odd sizes of images.
std::vector<Named> cases_by_onednn() {
    const WindowDim three{.size = 3, .before = 1, .after = 1}, strided{.size = 3, .stride = 2, .before = 1, .after = 1};
    const WindowDim five{.size = 5, .before = 2, .after = 1}, two{.stride = 2};
    const WindowDim wide{.size = 3, .dilation = 2, .before = 2, .after = 2};
    const std::vector<bool> all{true, true, true};
    return {{{2, 13, 11, 64, 64, 16, {three, three}}, DType::f32, all},
            {{3, 13, 14, 64, 64, 8, {three, three}}, DType::f32, all},
            {{5, 29, 31, 64, 64, 8, {strided, strided}}, DType::f32, all},
            {{7, 12, 13, 64, 64, 4, {strided, three}}, DType::f32, all},
            {{1, 9, 10, 64, 64, 2, {three, three}}, DType::f32, {true, false, false}},
            {{3, 15, 13, 48, 48, 48, {three, three}}, DType::f32, all},
            {{6, 14, 15, 32, 32, 32, {strided, strided}}, DType::f32, all},
            {{6, 14, 13, 64, 48, 1, {}}, DType::f32, all},
            {{7, 15, 14, 32, 64, 1, {two, two}}, DType::f32, all},
            {{4, 13, 14, 16, 32, 1, {five, five}}, DType::f32, all},
            {{5, 17, 16, 32, 32, 1, {wide, wide}}, DType::f32, {true, false, false}},
            {{3, 13, 14, 64, 64, 8, {three, three}}, DType::bf16, all},
            {{2, 11, 13, 64, 64, 2, {strided, strided}}, DType::bf16, {true, true, false}},
            {{5, 12, 15, 48, 48, 48, {three, strided}}, DType::bf16, {true, true, false}},
            {{5, 12, 15, 48, 48, 48, {strided, three}}, DType::bf16, all},
            {{6, 13, 14, 32, 32, 1, {three, three}}, DType::bf16, all},
            {{5, 15, 14, 32, 64, 1, {two, two}}, DType::bf16, all},
            {{5, 13, 14, 32, 48, 1, {}}, DType::bf16, all},
            {{7, 14, 13, 1, 32, 1, {five, five}}, DType::bf16, all}};
}

#define SKIP_WITHOUT_ONEDNN()                                                                                          \
    if (!kernels::is_onednn(cases_by_onednn()[0].shape, DType::f32, ConvolutionDirection::forward))                    \
    GTEST_SKIP() << "a build without oneDNN, or a CPU that it has nothing for"

template <class Visit> void for_cases_by_onednn(const Visit& visit) {
    int number = 0;
    for (const Named& each : cases_by_onednn()) {
        SCOPED_TRACE(testing::Message() << "case " << number++ << ", " << name_of(each.dtype));
        visit(each);
    }
}

} // namespace

TEST(ConvolutionsByOnednn, TheRuleTakesThem) {
    SKIP_WITHOUT_ONEDNN();
    for_cases_by_onednn([&](const Named& each) {
        for (std::size_t i = 0; i < 3; ++i) {
            EXPECT_EQ(kernels::is_onednn(each.shape, each.dtype, directions[i]), each.by_onednn[i]) << i;
            EXPECT_EQ(kernels::onednn_name(each.shape, each.dtype, directions[i]).empty(), !each.by_onednn[i]) << i;
        }
    });
    const WindowDim three{.size = 3, .before = 1, .after = 1};
    for (const ConvolutionDirection direction : directions) {
        EXPECT_FALSE(kernels::is_onednn({8, 28, 28, 64, 64, 1, {three, three}}, DType::f32, direction)) << "Winograd's";
        EXPECT_FALSE(kernels::is_onednn({8, 28, 28, 64, 64, 8, {three, three}}, DType::f16, direction)) << "f16";
        EXPECT_FALSE(kernels::is_onednn({0, 28, 28, 64, 64, 8, {three, three}}, DType::f32, direction)) << "no images";
    }
}

TEST(ConvolutionsByOnednn, AreSumsOverTheirWindows) {
    SKIP_WITHOUT_ONEDNN();
    for_cases_by_onednn([&](const Named& each) {
        OnCpu on;
        expect_forward(on, each.shape, each.dtype, each.shape.batch % 2 == 0);
        expect_input_gradient(on, each.shape, each.dtype);
        expect_weight_gradient(on, each.shape, each.dtype);
    });
}

TEST(ConvolutionsByOnednn, OfRandomSizes) {
    SKIP_WITHOUT_ONEDNN();
    std::mt19937 generator(7);
    const auto draw = [&](int low, int high) {
        return std::uniform_int_distribution<std::int64_t>(low, high)(generator);
    };
    int taken = 0;
    for (int turn = 0; turn < 40; ++turn) {
        const auto dim = [&] { return WindowDim{draw(1, 5), draw(1, 3), draw(1, 2), draw(0, 2), draw(0, 2)}; };
        const std::int64_t groups = turn % 4 == 0 ? 1 : draw(2, 9), channels = groups * draw(1, 16);
        const Convolution c{draw(1, 9),           draw(9, 17), draw(9, 17),   channels,
                            groups * draw(1, 16), groups,      {dim(), dim()}};
        const DType type = turn % 2 == 0 ? DType::f32 : DType::bf16;
        SCOPED_TRACE(testing::Message() << "turn " << turn);
        for (const ConvolutionDirection direction : directions)
            taken += kernels::is_onednn(c, type, direction);
        OnCpu on(turn % 3 + 1);
        expect_forward(on, c, type, turn % 2 == 0);
        expect_input_gradient(on, c, type);
        expect_weight_gradient(on, c, type);
    }
    EXPECT_GT(taken, 40);
}

TEST(ConvolutionsByOnednn, NothingBehindAnOperandIsTouched) {
    SKIP_WITHOUT_ONEDNN();
    for_cases_by_onednn([&](const Named& each) { expect_nothing_behind_is_touched(each.shape, each.dtype); });
}

TEST(ConvolutionsByOnednn, TheSameBitsForAnyThreads) {
    SKIP_WITHOUT_ONEDNN();
    for_cases_by_onednn([&](const Named& each) { expect_same_bits(each.shape, each.dtype); });
}

// Ranks that are threads, whatever OpenMP would give oneDNN.
TEST(ConvolutionsByOnednn, TheSameBitsFromSeveralThreadsAtOnce) {
    SKIP_WITHOUT_ONEDNN();
    const WindowDim three{.size = 3, .before = 1, .after = 1};
    const Convolution c{6, 19, 18, 64, 64, 8, {three, three}}; // a shape that no other test has compiled
    const Operands a(c, DType::f32);
    std::vector<Sample> results;
    for (int i = 0; i < 4; ++i)
        results.emplace_back(weight(c), DType::f32);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            OnCpu on(i % 2 + 1);
            omp_set_num_threads(i + 1);
            weight_gradient(on, c, a, results[static_cast<std::size_t>(i)]);
            EXPECT_EQ(omp_get_max_threads(), i + 1) << "the caller's setting is changed";
        });
    for (std::thread& thread : threads)
        thread.join();
    for (const Sample& each : results)
        EXPECT_TRUE(each.same_bits(results[0]));
}

} // namespace convolution_test
