// SPDX-License-Identifier: Apache-2.0
// Products and attention on the shapes of small and larger GPTs, convolutions on those of ResNet-18: GFLOP/s, and the
// share of the f32 multiply-add peak of as many cores, measured in the same run. bf16 products have twice that peak.
#include "kernels/attention.hpp"
#include "kernels/convolution.hpp"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "kernels/peak.hpp"

#include <algorithm>
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <random>
#include <utility>

using namespace tessera;

namespace {

double peak() {
    static CpuStream stream;
    static const double measured = kernels::peak_flops(stream);
    return measured;
}

Buffer random_values(std::int64_t count, DType dtype) {
    Buffer buffer(count * bytes_of(dtype));
    std::mt19937 generator(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (std::int64_t i = 0; i < count; ++i) {
        if (dtype == DType::f32)
            reinterpret_cast<float*>(buffer.data())[i] = uniform(generator);
        else
            reinterpret_cast<BFloat16*>(buffer.data())[i] = BFloat16(uniform(generator));
    }
    return buffer;
}

void report(benchmark::State& state, double operations, int threads) {
    using benchmark::Counter;
    state.counters["GFLOP/s"] = Counter(operations / 1e9, Counter::kIsIterationInvariantRate, Counter::OneK::kIs1000);
    state.counters["of_peak"] = Counter(operations / (peak() * threads), Counter::kIsIterationInvariantRate);
}

void run_matmul(benchmark::State& state, const Matmul& product, int threads) {
    CpuStream stream(threads);
    const Buffer a = random_values(product.m * product.k, product.input);
    const Buffer b = random_values(product.k * product.n, product.input);
    const Buffer c(product.m * product.n * bytes_of(product.output));
    const std::int64_t bytes = kernels::matmul_workspace_bytes(stream, product);
    const Buffer workspace(bytes);
    const View a_view(a.data(), Shape{product.m, product.k}, product.input);
    const View b_view(b.data(), Shape{product.k, product.n}, product.input);
    const View c_view(c.data(), Shape{product.m, product.n}, product.output);
    const View workspace_view(workspace.data(), Shape{bytes / 4}, DType::f32);
    for (auto _ : state)
        kernels::matmul(stream, product, a_view, b_view, {}, c_view, workspace_view);
    report(state, 2.0 * static_cast<double>(product.m * product.n * product.k), threads);
}

void register_matmuls() {
    struct Sizes {
        std::int64_t m, n, k;
        bool transpose_a, transpose_b;
    };
    const Sizes all[] = {{768, 384, 128, false, true},   {768, 128, 128, false, true},  {768, 512, 128, false, true},
                         {768, 128, 512, false, true},   {768, 65, 128, false, true},   {768, 128, 384, false, false},
                         {768, 128, 512, false, false},  {768, 512, 128, false, false}, {384, 128, 768, true, false},
                         {512, 128, 768, true, false},   {128, 512, 768, true, false},  {65, 128, 768, true, false},
                         {128, 128, 768, true, false},   {384, 384, 128, false, true},  {64, 64, 4096, true, false},
                         {256, 2304, 768, false, true},  {256, 768, 3072, false, true}, {3072, 768, 256, true, false},
                         {256, 50304, 768, false, true}, {7, 129, 65, false, true},     {1, 768, 768, false, true}};
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Sizes& sizes : all)
            for (const int threads : {1, 2}) {
                const Matmul product{.m = sizes.m,
                                     .n = sizes.n,
                                     .k = sizes.k,
                                     .transpose_a = sizes.transpose_a,
                                     .transpose_b = sizes.transpose_b,
                                     .input = dtype};
                const auto name =
                    fmt::format("matmul/{}/{}x{}x{}/{}{}/threads:{}", name_of(dtype), sizes.m, sizes.n, sizes.k,
                                sizes.transpose_a ? "T" : "N", sizes.transpose_b ? "T" : "N", threads);
                benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
                    run_matmul(state, product, threads);
                })->UseRealTime();
            }
}

// Operations that are needed: with `causal` half of the scores. The gradient takes five products where forward takes
// two.
void run_attention(benchmark::State& state, const Shape& qkv, DType dtype, bool causal, bool gradient, int threads) {
    CpuStream stream(threads);
    const std::int64_t count = qkv.count(), times = qkv[1], heads = qkv[0] * qkv[3];
    const Buffer in = random_values(count, dtype), y(count / 3 * bytes_of(dtype)), logarithms(heads * times * 4);
    const Buffer dy = random_values(count / 3, dtype), out(count * bytes_of(dtype));
    const kernels::AttentionShape shape{qkv[0], qkv[1], qkv[3], qkv[3], qkv[4], 0.1f, causal};
    const std::int64_t bytes = std::max(kernels::attention_workspace_bytes(stream, shape, dtype),
                                        kernels::attention_gradient_workspace_bytes(stream, shape, dtype));
    const Buffer memory(bytes);
    const View workspace(memory.data(), Shape{bytes / 4}, DType::f32), in_view(in.data(), qkv, dtype);
    const View y_view(y.data(), Shape{count / 3}, dtype), dy_view(dy.data(), Shape{count / 3}, dtype);
    const View logarithms_view(logarithms.data(), Shape{heads * times}, DType::f32), out_view(out.data(), qkv, dtype);
    kernels::attention(stream, shape, in_view, y_view, logarithms_view, workspace);
    for (auto _ : state) {
        if (gradient)
            kernels::attention_gradient(stream, shape, in_view, y_view, dy_view, logarithms_view, out_view, workspace);
        else
            kernels::attention(stream, shape, in_view, y_view, logarithms_view, workspace);
    }
    const std::int64_t scores = causal ? times * (times + 1) / 2 : times * times;
    report(state, (gradient ? 10.0 : 4.0) * static_cast<double>(heads * scores * qkv[4]), threads);
}

void register_attention() {
    for (const Shape& qkv : {Shape{12, 64, 3, 4, 32}, Shape{6, 64, 3, 4, 32}, Shape{4, 1024, 3, 12, 64}})
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const bool causal : {true, false})
                for (const bool gradient : {false, true})
                    for (const int threads : {1, 2}) {
                        const auto name = fmt::format("attention{}/{}/B{}xT{}xH{}xD{}/{}/threads:{}",
                                                      gradient ? "_gradient" : "", name_of(dtype), qkv[0], qkv[1],
                                                      qkv[3], qkv[4], causal ? "causal" : "full", threads);
                        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
                            run_attention(state, qkv, dtype, causal, gradient, threads);
                        })->UseRealTime();
                    }
}

enum class Pass { forward, input_gradient, weight_gradient };

void run_convolution(benchmark::State& state, const Convolution& shape, DType dtype, Pass pass, int threads) {
    CpuStream stream(threads);
    const std::int64_t pixels = shape.batch * shape.height * shape.width;
    const Buffer x = random_values(pixels * shape.channels, dtype), dw(shape.filters * shape.taps() * 4);
    const Buffer w = random_values(shape.filters * shape.taps(), dtype);
    const Buffer y = random_values(shape.pixels() * shape.filters, dtype);
    const std::int64_t bytes = std::max({kernels::convolution_workspace_bytes(stream, shape, dtype),
                                         kernels::convolution_input_gradient_workspace_bytes(stream, shape, dtype),
                                         kernels::convolution_weight_gradient_workspace_bytes(stream, shape, dtype)});
    const Buffer memory(bytes);
    const View workspace(memory.data(), Shape{bytes / 4}, DType::f32);
    const View x_view(x.data(), Shape{pixels * shape.channels}, dtype);
    const View w_view(w.data(), Shape{shape.filters * shape.taps()}, dtype);
    const View dw_view(dw.data(), w_view.shape, DType::f32),
        y_view(y.data(), Shape{shape.pixels(), shape.filters}, dtype);
    for (auto _ : state) {
        if (pass == Pass::forward)
            kernels::convolution(stream, shape, x_view, w_view, {}, y_view, workspace);
        else if (pass == Pass::input_gradient)
            kernels::convolution_input_gradient(stream, shape, y_view, w_view, x_view, workspace);
        else
            kernels::convolution_weight_gradient(stream, shape, y_view, x_view, dw_view, workspace);
    }
    report(state, 2.0 * static_cast<double>(shape.pixels() * shape.filters * shape.taps()), threads);
}

// One of the inner layers, one with a stride, the last, and one of ResNeXt-50 (32 x 4d): batches of 4 images of 224 x
// 224.
void register_convolutions() {
    const WindowDim three{.size = 3, .before = 1, .after = 1}, strided{.size = 3, .stride = 2, .before = 1, .after = 1};
    const Convolution all[] = {{4, 56, 56, 64, 64, 1, {three, three}},
                               {4, 28, 28, 128, 256, 1, {strided, strided}},
                               {4, 7, 7, 512, 512, 1, {three, three}},
                               {4, 28, 28, 256, 256, 32, {three, three}}};
    constexpr std::pair<Pass, const char*> passes[] = {
        {Pass::forward, ""}, {Pass::input_gradient, "_input_gradient"}, {Pass::weight_gradient, "_weight_gradient"}};
    for (const Convolution& shape : all)
        for (const auto& [pass, suffix] : passes)
            for (const DType dtype : {DType::f32, DType::bf16})
                for (const int threads : {1, 2}) {
                    const auto name = fmt::format("convolution{}/{}/{}x{}x{}to{}stride{}groups{}/threads:{}", suffix,
                                                  name_of(dtype), shape.height, shape.width, shape.channels,
                                                  shape.filters, shape.window.height.stride, shape.groups, threads);
                    benchmark::RegisterBenchmark(name.c_str(), [=, pass = pass](benchmark::State& state) {
                        run_convolution(state, shape, dtype, pass, threads);
                    })->UseRealTime();
                }
}

} // namespace

int main(int argc, char** argv) {
    register_matmuls();
    register_attention();
    register_convolutions();
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
}
