// SPDX-License-Identifier: Apache-2.0
// The graphs of kernels/cuda told to cuDNN itself, which needs no GPU to say which plans it has for one: a GPU is
// described to it, and a driver that runs nothing (driver.cpp) takes what it compiles. What the plans compute only a
// GPU shows, and, with the same graphs, the substitute in tests/cuda_emulation.
#include "kernels/cuda/cudnn_attention.hpp"
#include "kernels/cuda/cudnn_convolution.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <optional>

using namespace tessera;
using cuda::ConvolutionPart;

namespace {

constexpr auto h200 = R"({"cudaDeviceId": 0, "deviceName": "NVIDIA H200", "deviceVer": 900, "driverVer": 13000,
"isTccDriver": 0, "l2CacheSize": 62914560, "maxCtasPerSM": 32, "maxRegistersPerSM": 65536,
"maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "maxThreadsPerBlock": 1024,
"maxThreadsPerSM": 2048, "memClockRateKHz": 3201000, "multiProcessorCount": 132, "pciDeviceId": 0,
"regsPerBlock": 65536, "reservedSharedMemoryPerBlock": 1024, "smClockRateKHz": 1980000, "supportCoopLaunch": 1,
"totalGlobalMem": 150754820096, "warpSize": 32, "maxGridSize": [2147483647, 65535, 65535],
"maxBlockSize": [1024, 1024, 64]})";

class Cudnn : public testing::Test {
protected:
    void SetUp() override {
        try {
            gpu_ = cuda::CudnnTarget::described(h200);
        } catch (const SystemError& error) { // the JSON is cuDNN's own affair, and may be another in a later version
            const std::string why = error.what();
            if (why.find("Finalize") == std::string::npos && why.find("NOT_SUPPORTED") == std::string::npos) throw;
            GTEST_SKIP() << "this cuDNN takes no such description: " << error.what();
        }
    }

    // How the first plan is described; "none" where there is none.
    std::string plan_of(cuda::CudnnGraph graph, const cuda::CudnnLimits& limits) {
        const auto plans = cudnn_plans(*gpu_, std::make_shared<const cuda::CudnnGraph>(std::move(graph)), limits);
        return plans.empty() ? "none" : plans.front().text();
    }

    std::string convolution_plan(ConvolutionPart part, const Convolution& shape, DType dtype, bool tf32 = false,
                                 bool bias = false) {
        return plan_of(
            convolution_graph(part, shape, dtype, bias),
            {.workspace_bytes = cuda::convolution_plan_bytes(shape), .full_f32 = dtype == DType::f32 && !tf32});
    }

    std::optional<cuda::CudnnTarget> gpu_;
};

constexpr WindowDim three{.size = 3, .before = 1, .after = 1}, half{.size = 3, .stride = 2, .before = 1, .after = 1};
constexpr WindowDim stem{.size = 7, .stride = 2, .before = 3, .after = 3};
constexpr ConvolutionPart parts[] = {ConvolutionPart::forward, ConvolutionPart::input_gradient,
                                     ConvolutionPart::weight_gradient};

bool on_tensor_cores(const std::string& plan) { return plan.find("on tensor cores") != std::string::npos; }

} // namespace

// The layers of a residual network: in 16 bits all of it on tensor cores, the weights' gradient in f32 too.
TEST_F(Cudnn, ConvolutionsOfManyChannelsRunOnTensorCores) {
    const Convolution shape{32, 56, 56, 64, 64, 1, {three, three}};
    const Convolution uneven{32, 58, 56, 64, 128, 1, {{3, 2, 1, 1, 0}, half}};
    for (const ConvolutionPart part : parts)
        for (const Convolution& wanted : {shape, uneven}) {
            if (part == ConvolutionPart::weight_gradient && wanted.filters == 128) continue; // seconds to compile
            const std::string plan = convolution_plan(part, wanted, DType::bf16);
            EXPECT_TRUE(on_tensor_cores(plan)) << static_cast<int>(part) << ": " << plan;
        }
    EXPECT_TRUE(on_tensor_cores(convolution_plan(ConvolutionPart::forward, shape, DType::f16)));
}

TEST_F(Cudnn, OnlyTf32TakesF32ToTensorCores) {
    const Convolution shape{32, 14, 14, 256, 256, 1, {three, three}};
    for (const ConvolutionPart part : parts) {
        const std::string full = convolution_plan(part, shape, DType::f32);
        const std::string fast = convolution_plan(part, shape, DType::f32, true);
        EXPECT_NE(full, "none") << static_cast<int>(part);
        EXPECT_FALSE(on_tensor_cores(full)) << full;
        EXPECT_TRUE(on_tensor_cores(fast)) << fast;
    }
}

// Few channels, groups, gaps, uneven padding: what there is no plan for is ours, but none of it is a mistake.
TEST_F(Cudnn, UnusualConvolutionsAreTakenOrLeft) {
    const Convolution shapes[] = {
        {32, 224, 224, 3, 64, 1, {stem, stem}},
        {2, 7, 9, 5, 6, 1, {three, three}},
        {1, 10, 9, 4, 3, 1, {{3, 2, 2, 2, 1}, {2, 2, 2, 0, 3}}},
        {1, 3, 2, 2, 3, 1, {{2, 1, 1, 4, 3}, {2, 1, 1, 0, 5}}},
        {1, 11, 10, 3, 4, 1, {{2, 4, 1, 0, 0}, {1, 3, 1, 0, 2}}},
        {2, 6, 7, 6, 4, 2, {three, half}},
        {32, 56, 56, 128, 128, 32, {three, three}},
    };
    int taken = 0;
    for (const Convolution& shape : shapes)
        for (const ConvolutionPart part : parts)
            for (const DType dtype : {DType::f32, DType::bf16})
                taken += convolution_plan(part, shape, dtype) != "none" ? 1 : 0;
    EXPECT_GE(taken, 35) << "of 42";
}

TEST_F(Cudnn, ABiasIsFused) {
    const Convolution shape{8, 28, 28, 64, 64, 1, {three, three}};
    EXPECT_TRUE(on_tensor_cores(convolution_plan(ConvolutionPart::forward, shape, DType::bf16, false, true)));
    EXPECT_NE(convolution_plan(ConvolutionPart::forward, shape, DType::f32, false, true), "none");
}

// GPT-2's heads, those of larger models that share keys, and odd lengths; all at the sizes that the plans are said to
// want.
TEST_F(Cudnn, Attention) {
    using kernels::AttentionShape;
    for (const AttentionShape& shape :
         {AttentionShape{4, 1024, 12, 12, 64, 0.125f, true}, AttentionShape{2, 70, 6, 2, 128, 0.1f, true, false},
          AttentionShape{1, 130, 3, 3, 80, 0.1f, false, true}}) {
        const DType dtype = shape.causal ? DType::bf16 : DType::f16;
        const auto text = fmt::format("T {}, H {}, D {}", shape.tokens, shape.heads, shape.head_dim);
        EXPECT_TRUE(on_tensor_cores(
            plan_of(cuda::attention_graph(shape, dtype), {.workspace_bytes = cuda::attention_plan_bytes})))
            << text;
        EXPECT_TRUE(on_tensor_cores(plan_of(cuda::attention_gradient_graph(shape, dtype),
                                            {.workspace_bytes = cuda::attention_gradient_plan_bytes(shape)})))
            << text;
    }
}

TEST_F(Cudnn, APlanThatWantsMoreMemoryIsLeft) {
    const kernels::AttentionShape shape{1, 128, 2, 2, 64, 0.1f, true};
    EXPECT_EQ(plan_of(cuda::attention_gradient_graph(shape, DType::bf16), {.workspace_bytes = 1024}), "none");
}
