// SPDX-License-Identifier: Apache-2.0
// What a GPU's libraries are asked, trials of it, and what streams that settle on the choices then do; a cuDNN that
// does not start or run. Slow and broken libraries are the emulation's: TESSERA_EMULATION_SLOW,
// TESSERA_EMULATION_CUDNN.
#include "kernels/library_choices.hpp"

#include "kernels/attention.hpp"
#include "kernels/convolution.hpp"
#include "kernels/cuda/attention_variants.hpp"
#include "kernels/cuda/convolution_variants.hpp"
#include "kernels/matmul.hpp"
#include "tests/support/device.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <gtest/gtest.h>

#if TESSERA_CUDA
namespace library_choices_test {
namespace {

using namespace tessera;

class Setting {
public:
    Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
    Setting(const Setting&) = delete;
    Setting& operator=(const Setting&) = delete;
    ~Setting() { unsetenv(name_); }

private:
    const char* name_;
};

const Matmul product{.m = 24, .n = 40, .k = 700, .input = DType::bf16, .output = DType::bf16, .bias = true};
const kernels::AttentionShape heads{
    .batch = 1, .tokens = 40, .heads = 2, .kv_heads = 2, .head_dim = 64, .scale = 0.125f, .causal = true};
const Convolution filters{2, 5, 6, 16, 8, 1, {{.size = 3, .before = 1, .after = 1}, {.size = 3}}};

std::vector<ChoiceWords> asked(Stream& stream) {
    const CudaStream& gpu = std::get<CudaStream>(stream);
    kernels::matmul_workspace_bytes(gpu, product);
    kernels::attention_workspace_bytes(gpu, heads, DType::bf16);
    kernels::attention_gradient_workspace_bytes(gpu, heads, DType::bf16);
    kernels::convolution_workspace_bytes(gpu, filters, DType::f32);
    kernels::convolution_input_gradient_workspace_bytes(gpu, filters, DType::f32);
    kernels::convolution_weight_gradient_workspace_bytes(gpu, filters, DType::f32);
    return asked_of_libraries(stream);
}

std::size_t by_us(const LibraryChoices& choices) {
    return static_cast<std::size_t>(
        std::ranges::count_if(choices, [](const auto& one) { return one.second == by_our_kernel; }));
}

ChoiceWords algorithm_of_product(const LibraryChoices& choices) {
    for (const auto& [asked, chosen] : choices)
        if (asked[0] == 200) return chosen;
    return {};
}

// The same inputs whatever the stream; what the convolution makes of them.
Sample convolved(Stream& stream, kernels::ConvolutionVariant variant = kernels::ConvolutionVariant::fastest) {
    auto& gpu = std::get<CudaStream>(stream);
    const Sample x(Shape{2, 5, 6, 16}, DType::f32), w(Shape{8, 3, 3, 16}, DType::f32), y(Shape{2, 5, 4, 8}, DType::f32);
    const auto on_gpu = [&](const Sample& sample, double factor) {
        for (std::int64_t i = 0; i < sample.count(); ++i)
            const_cast<Sample&>(sample).set(i, std::sin(factor * static_cast<double>(i)));
        Buffer memory = allocate(gpu, sample.view().bytes());
        kernels::upload(gpu, sample.view(), View(memory.data(), sample.view().shape, DType::f32));
        return memory;
    };
    const Buffer x_there = on_gpu(x, 0.7), w_there = on_gpu(w, 1.3), y_there = on_gpu(y, 1);
    const Buffer workspace = allocate(gpu, kernels::convolution_workspace_bytes(gpu, filters, DType::f32));
    kernels::convolution(gpu, variant, filters, View(x_there.data(), x.view().shape, DType::f32),
                         View(w_there.data(), w.view().shape, DType::f32), {},
                         View(y_there.data(), y.view().shape, DType::f32),
                         View(workspace.data(), {workspace.bytes() / 4}, DType::f32));
    kernels::download(gpu, View(y_there.data(), y.view().shape, DType::f32), y.view());
    return y;
}

TEST(LibraryChoices, WhatIsNotToTuneTriesConvolutionsAlone) {
    Stream stream = gpu_stream(0);
    const std::vector<ChoiceWords> words = asked(stream);
    EXPECT_EQ(words.size(), 4); // the library is not asked for attention
    const LibraryChoices found = try_libraries(stream, words);
    EXPECT_EQ(found.size(), 3);
    EXPECT_EQ(by_us(found), 0);
    EXPECT_EQ(cudnn_trouble(stream), "");
}

TEST(LibraryChoices, TheSlowerIsNotChosen) {
    if (Stream any = gpu_stream(0); libraries_text(any).find("emulation") == std::string::npos)
        GTEST_SKIP() << "the emulation's libraries are slow when asked to";
    std::map<std::string, LibraryChoices> found;
    for (const char* slow : {"whole", "halves", "cudnn"}) {
        const Setting setting("TESSERA_EMULATION_SLOW", slow);
        Stream stream = gpu_stream(0, {.tune = true});
        const std::vector<ChoiceWords> words = asked(stream);
        ASSERT_EQ(words.size(), 6);
        found[slow] = try_libraries(stream, words);
        EXPECT_EQ(found[slow].size(), 6) << slow;
    }
    EXPECT_NE(algorithm_of_product(found["whole"]), algorithm_of_product(found["halves"]));
    EXPECT_EQ(by_us(found["cudnn"]), 5); // attention, its gradient, three parts of a convolution
    Stream second = gpu_stream(0, {.tune = true});
    settle_libraries(second, found["whole"]);
    EXPECT_EQ(try_libraries(second, asked(second)), found["whole"]);
}

// Another stream takes what it is given, against its own clock, and times nothing.
TEST(LibraryChoices, WhatIsSettledIsTaken) {
    Stream first = gpu_stream(0), second = gpu_stream(0, {.tune = true});
    LibraryChoices choices = try_libraries(first, asked(first));
    const Sample by_library = convolved(first), tiled = convolved(first, kernels::ConvolutionVariant::tiled);
    ASSERT_FALSE(by_library.same_bits(tiled)) << "nothing to tell them apart by";
    settle_libraries(second, choices);
    EXPECT_TRUE(convolved(second).same_bits(by_library));
    const LibraryChoices found = try_libraries(second, asked(second));
    for (const auto& [words, chosen] : choices)
        EXPECT_EQ(found.at(words), chosen);
    EXPECT_TRUE(algorithm_of_product(found).empty()) << "it was timed";
    for (auto& [words, chosen] : choices)
        if (words[0] < 200) chosen = by_our_kernel;
    settle_libraries(second, choices); // what it has prepared is forgotten
    EXPECT_TRUE(convolved(second).same_bits(tiled));
}

TEST(LibraryChoices, AnEngineThatIsNotThereIsRefused) {
    Stream stream = gpu_stream(0);
    LibraryChoices choices = try_libraries(stream, asked(stream));
    for (auto& [words, chosen] : choices)
        chosen.back() = 77;
    settle_libraries(stream, choices);
    EXPECT_THROW(convolved(stream), SystemError);
}

// It ends no run: a kernel of ours does the work.
TEST(LibraryChoices, WithoutCudnnOurKernelsRun) {
    Stream sound = gpu_stream(0);
    if (libraries_text(sound).find("emulation") == std::string::npos)
        GTEST_SKIP() << "the emulation's cuDNN fails when asked to";
    const Sample tiled = convolved(sound, kernels::ConvolutionVariant::tiled);
    for (const auto& [how, told] : std::map<std::string, std::string>{
             {"missing", "cudnnCreate failed: CUDNN_STATUS_NOT_INITIALIZED: it shall not start"},
             {"failing", "cudnnBackendExecute failed: CUDNN_STATUS_EXECUTION_FAILED: it shall not run"}}) {
        const Setting setting("TESSERA_EMULATION_CUDNN", how.c_str());
        Stream stream = gpu_stream(0);
        for (int turn = 0; turn < 2; ++turn)
            EXPECT_TRUE(convolved(stream).same_bits(tiled)) << how;
        EXPECT_EQ(cudnn_trouble(stream), told);
        const LibraryChoices found = try_libraries(stream, asked(stream));
        EXPECT_EQ(by_us(found), found.size()) << how;
    }
}

TEST(LibraryChoices, PlansAndSiblingsHaveTheOptions) {
    const auto gradient_bytes = [](const Stream& stream) {
        return kernels::attention_gradient_workspace_bytes(std::get<CudaStream>(stream), heads, DType::bf16);
    };
    const Stream tuned = gpu_stream(0, {.tf32 = true, .tune = true}), plain = gpu_stream(0);
    EXPECT_EQ(gradient_bytes(planning_gpu_stream({.tune = true})), gradient_bytes(tuned));
    EXPECT_EQ(gradient_bytes(planning_gpu_stream()), gradient_bytes(plain));
    EXPECT_GT(gradient_bytes(tuned), gradient_bytes(plain));
    const Stream sibling(std::get<CudaStream>(tuned).sibling());
    EXPECT_EQ(gradient_bytes(sibling), gradient_bytes(tuned));
    EXPECT_EQ(libraries_text(sibling), libraries_text(tuned));
    EXPECT_NE(libraries_text(sibling), libraries_text(plain));
}

} // namespace
} // namespace library_choices_test
#endif
