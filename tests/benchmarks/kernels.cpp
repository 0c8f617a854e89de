// SPDX-License-Identifier: Apache-2.0
// Products and attention on the shapes of small and larger GPTs: GFLOP/s, and the share of the f32 multiply-add peak of
// as many cores, measured in the same run. bf16 products have twice that peak.
#include "kernels/attention.hpp"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "tests/benchmarks/peak.hpp"

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <random>

using namespace tessera;

namespace {

double peak() {
    static const double measured = peak_operations_per_second();
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

} // namespace

int main(int argc, char** argv) {
    register_matmuls();
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
}
