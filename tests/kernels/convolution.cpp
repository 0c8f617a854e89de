// SPDX-License-Identifier: Apache-2.0
// Convolution and its gradients against plain loops in double, over windows of every kind.
#include "tests/kernels/convolution_sums.hpp"

#include "kernels/error.hpp"
#include "kernels/replay.hpp"

using namespace tessera;

namespace convolution_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

struct Case {
    const char* name;
    Convolution shape;
};

std::vector<Case> cases() {
    const WindowDim three{.size = 3, .before = 1, .after = 1};
    const WindowDim strided{.size = 3, .stride = 2, .before = 1, .after = 1};
    return {
        {"3x3", {2, 7, 9, 5, 6, 1, {three, three}}},
        {"one by one, in place", {2, 5, 4, 20, 33, 1, {}}},
        {"one by one, stride 2", {2, 5, 8, 6, 7, 1, {{.stride = 2}, {.stride = 2}}}},
        {"stride 2", {1, 8, 9, 4, 5, 1, {strided, strided}}},
        {"stem", {1, 15, 13, 3, 8, 1, {{7, 2, 1, 3, 3}, {7, 2, 1, 3, 3}}}},
        {"dilation 2", {1, 9, 11, 4, 3, 1, {{3, 1, 2, 2, 2}, {3, 1, 2, 2, 2}}}},
        {"stride 2 and dilation 2", {1, 10, 9, 4, 3, 1, {{3, 2, 2, 2, 1}, {2, 2, 2, 0, 3}}}},
        {"stride 2 and dilation 3", {1, 12, 9, 2, 3, 1, {{3, 2, 3, 4, 1}, {4, 3, 2, 1, 3}}}},
        {"stride beyond the window", {1, 11, 10, 3, 4, 1, {{2, 4, 1, 0, 0}, {1, 3, 1, 0, 2}}}},
        {"uneven padding", {2, 6, 5, 3, 4, 1, {{3, 1, 1, 0, 2}, {4, 1, 1, 3, 1}}}},
        {"padding beyond the window", {1, 3, 2, 2, 3, 1, {{2, 1, 1, 4, 3}, {2, 1, 1, 0, 5}}}},
        {"depthwise, no images", {0, 6, 7, 7, 7, 7, {three, three}}},
        {"depthwise, several blocks", {3, 29, 4, 17, 17, 17, {strided, {3, 1, 2, 0, 3}}}},
        {"two groups", {2, 6, 7, 6, 4, 2, {three, strided}}},
        {"depthwise", {2, 6, 7, 7, 7, 7, {three, three}}},
        {"depthwise with two filters each", {1, 6, 5, 3, 6, 3, {strided, three}}},
        {"several slices", {2, 17, 16, 3, 4, 1, {three, three}}},
        {"several tiles", {1, 9, 9, 19, 70, 1, {three, three}}},
        {"whole vectors of channels", {2, 6, 7, 16, 24, 1, {three, strided}}},
        {"one by one, whole vectors", {1, 5, 8, 8, 16, 1, {{.before = 1}, {}}}},
        {"a whole and a half panel of filters", {2, 6, 5, 3, 48, 1, {three, strided}}},
        {"groups of a vector", {2, 6, 7, 10, 32, 2, {three, strided}}},
        {"groups of a panel and more", {1, 5, 4, 8, 66, 2, {three, three}}},
        {"sixteen filters of all groups", {2, 6, 7, 6, 16, 2, {three, strided}}},
        {"a window with gaps", {1, 9, 8, 3, 5, 1, {{.size = 3, .dilation = 3, .before = 3, .after = 3}, three}}},
        {"one by one, stride 2, groups", {2, 5, 8, 6, 32, 2, {{.stride = 2}, {.stride = 2}}}},
        {"a window larger than the image", {2, 2, 2, 3, 4, 1, {three, {.size = 4}}}},
        {"no images", {0, 6, 7, 3, 4, 1, {three, three}}},
    };
}

// Every case in f32, and in bf16 and f16 in turn: visit(shape, type, a bit that changes from one to the next).
template <class Visit> void for_cases(const Visit& visit) {
    unsigned turn = 0;
    for (const auto& [name, c] : cases()) {
        ++turn;
        for (const DType type : {DType::f32, turn % 2 == 0 ? DType::bf16 : DType::f16}) {
            SCOPED_TRACE(testing::Message() << name << ", " << name_of(type));
            visit(c, type, (turn / 2 + (type == DType::f32)) % 2 == 0);
        }
    }
}

} // namespace

template <class Device> class Convolutions : public testing::Test {};
TYPED_TEST_SUITE(Convolutions, Devices, DeviceNames);

TYPED_TEST(Convolutions, AreSumsOverTheirWindows) {
    TypeParam on;
    for_cases([&](const Convolution& c, DType type, bool bias) { expect_forward(on, c, type, bias); });
}

TYPED_TEST(Convolutions, TheGradientOfTheInput) {
    TypeParam on;
    for_cases([&](const Convolution& c, DType type, bool) { expect_input_gradient(on, c, type); });
}

TYPED_TEST(Convolutions, TheGradientOfTheWeight) {
    TypeParam on;
    for_cases([&](const Convolution& c, DType type, bool) { expect_weight_gradient(on, c, type); });
}

// So many channels that windows are gathered and multiplied in two pieces, the second of them short; or, in f32, that a
// tap's words are multiplied in blocks. Images of several pieces, and pieces of several images, the last ones short.
TEST(ConvolutionsOnCpu, InSeveralPieces) {
    const WindowDim three{.size = 3, .before = 1, .after = 1}, strided{.size = 3, .stride = 2, .before = 1};
    const Convolution even{2, 17, 13, 160, 5, 1, {three, three}}, gaps{2, 25, 41, 4, 320, 1, {strided, strided}};
    for (const DType type : types) {
        SCOPED_TRACE(name_of(type));
        OnCpu on;
        expect_forward(on, even, type, true);
        expect_weight_gradient(on, even, type);
        expect_input_gradient(on, gaps, type);
    }
    for (const Convolution& c : {Convolution{2, 61, 67, 3, 16, 1, {three, strided}},  // rows of an image
                                 Convolution{1, 40, 33, 34, 18, 2, {strided, three}}, // bytes of an image
                                 Convolution{1, 47, 45, 130, 3, 1, {strided, three}}, // for the gradient of w, too
                                 Convolution{1, 5, 4, 600, 3, 1, {three, three}},     // words of a tap
                                 Convolution{301, 4, 3, 4, 17, 1, {three, three}}}) { // several images
        SCOPED_TRACE(c.batch);
        OnCpu on;
        expect_forward(on, c, DType::f32, true);
        expect_weight_gradient(on, c, DType::f32);
        expect_input_gradient(on, c, DType::f32);
    }
}

TEST(ConvolutionsOnCpu, NothingBehindAnOperandIsTouched) {
    for (const Case& test : cases())
        for (const DType type : types) {
            SCOPED_TRACE(test.name);
            expect_nothing_behind_is_touched(test.shape, type);
        }
}

TYPED_TEST(Convolutions, WhatIsNoConvolutionIsRefused) {
    TypeParam on;
    const auto refuses = [&](const Convolution& c) {
        EXPECT_THROW(kernels::convolution_workspace_bytes(on.stream(), c, DType::f32), InternalError);
        EXPECT_THROW(kernels::convolution_input_gradient_workspace_bytes(on.stream(), c, DType::f32), InternalError);
        EXPECT_THROW(kernels::convolution_weight_gradient_workspace_bytes(on.stream(), c, DType::f32), InternalError);
    };
    refuses({1, 4, 4, 3, 4, 2, {}});
    refuses({1, 4, 4, 4, 3, 2, {}});
    refuses({1, 4, 4, 4, 4, 0, {}});
    refuses({1, -4, 4, 4, 4, 1, {}});
    refuses({1, 4, 4, 4, 4, 1, {{.stride = 0}, {}}});
    refuses({1, 4, 4, 4, 4, 1, {{}, {.before = -1}}});
    const Convolution sound{1, 4, 5, 2, 3, 1, {}}, larger{1, 4, 6, 2, 3, 1, {}};
    const Operands a(sound, DType::f32);
    const Sample y(output(larger), DType::f32), half(output(sound), DType::bf16);
    EXPECT_THROW(forward(on, sound, a, false, y), InternalError);
    EXPECT_THROW(forward(on, sound, a, false, half), InternalError);
    EXPECT_THROW(input_gradient(on, sound, a, y), InternalError);
    EXPECT_THROW(weight_gradient(on, sound, a, y), InternalError);
}

// Pieces that end within a tile, and few rows for many threads.
TEST(ConvolutionsOnCpu, TheSameBitsForAnyThreads) {
    const WindowDim three{.size = 3, .before = 1, .after = 1}, strided{.size = 3, .stride = 2, .before = 1};
    for (const Convolution& c :
         {Convolution{2, 31, 30, 17, 37, 1, {three, three}}, Convolution{3, 14, 15, 12, 36, 4, {strided, three}},
          Convolution{1, 3, 3, 64, 8, 1, {}}, Convolution{7, 12, 9, 6, 100, 1, {three, three}},
          Convolution{5, 30, 21, 35, 35, 35, {three, strided}}})
        for (const DType type : types)
            expect_same_bits(c, type);
}

#if TESSERA_CUDA
namespace {

using Library = testing::Types<OnCuda>;
template <class Device> class ConvolutionsByLibrary : public testing::Test {};

// Rounded factors of f32 fail in full precision.
Convolution wide() { return {2, 5, 6, 16, 8, 1, {{.size = 3, .before = 1, .after = 1}, {.size = 3}}}; }

} // namespace
TYPED_TEST_SUITE(ConvolutionsByLibrary, Library, DeviceNames);

// The same key twice: what the first call prepared, on other memory.
TYPED_TEST(ConvolutionsByLibrary, APlanServesManyCalls) {
    TypeParam on;
    for (int turn = 0; turn < 2; ++turn)
        for (const DType type : types)
            for (const bool bias : {false, true})
                expect_forward(on, wide(), type, bias);
}

TYPED_TEST(ConvolutionsByLibrary, TuningKeepsTheResult) {
    TypeParam on(CudaOptions{.tune = true});
    for (int turn = 0; turn < 2; ++turn)
        for (const DType type : types) {
            expect_forward(on, wide(), type, true);
            expect_input_gradient(on, wide(), type);
            expect_weight_gradient(on, wide(), type);
        }
}

// Without leave to, expect_forward sees the first rounded factor; here the other stream must have made use of it. A
// size at which cuDNN itself takes tensor cores.
TYPED_TEST(ConvolutionsByLibrary, Tf32RoundsFactorsWhereAllowed) {
    const WindowDim three{.size = 3, .before = 1, .after = 1};
    const Convolution c{2, 8, 8, 32, 32, 1, {three, three}};
    const Operands a(c, DType::f32);
    const Sample full(output(c), DType::f32), rounded(output(c), DType::f32);
    TypeParam exact, fast(CudaOptions{.tf32 = true});
    forward(exact, c, a, false, full);
    forward(fast, c, a, false, rounded);
    EXPECT_FALSE(full.same_bits(rounded)) << "not by the library, or not on tensor cores";
    const double largest = static_cast<double>(c.taps()) * 4 * 0x1p-10; // terms, their magnitude, two rounded factors
    for (std::int64_t i = 0; i < full.count(); ++i)
        EXPECT_NEAR(full[i], rounded[i], largest);
}

// The first run prepares the plan, the second is recorded, the third is the record's.
TYPED_TEST(ConvolutionsByLibrary, RunsAsARecordOfAGraph) {
    TypeParam on;
    const Convolution c = wide();
    const Operands a(c, DType::bf16);
    const Sample y(output(c), DType::bf16);
    const Sample workspace = workspace_of(kernels::convolution_workspace_bytes(on.stream(), c, DType::bf16));
    const View x = on(a.x), w = on(a.w), bias = on(a.bias), result = on(y), memory = on(workspace);
    Replay replay;
    for (int run = 0; run < 3; ++run)
        replay.run(on.stream(), [&] { kernels::convolution(on.stream(), c, x, w, bias, result, memory); });
    on.finish();
    const Sample again(output(c), DType::bf16);
    forward(on, c, a, true, again);
    EXPECT_TRUE(y.same_bits(again));
}

TYPED_TEST(ConvolutionsByLibrary, SameBitsInTwoRuns) {
    for (const DType type : types) {
        const Operands a(wide(), type);
        const auto run = [&] {
            TypeParam on;
            auto results = std::make_unique<std::array<Sample, 3>>(std::array{
                Sample(output(wide()), type), Sample(image(wide()), type), Sample(weight(wide()), DType::f32)});
            forward(on, wide(), a, true, results->at(0));
            input_gradient(on, wide(), a, results->at(1));
            weight_gradient(on, wide(), a, results->at(2));
            return results;
        };
        const auto one = run(), two = run();
        for (std::size_t i = 0; i < 3; ++i)
            EXPECT_TRUE(one->at(i).same_bits(two->at(i)));
    }
}
#endif

} // namespace convolution_test
