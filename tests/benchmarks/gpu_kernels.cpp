// SPDX-License-Identifier: Apache-2.0
// Times of single GPU kernels at the sizes of GPT-2 124M and 1558M (16,384 rows) and of layers of ResNet-50, as the GPU
// counts them, ten in a row; of attention and convolutions ours and cuDNN's.
// Google Benchmark: --benchmark_filter='matmul/bf16', --benchmark_out=FILE.
#include "kernels/cross_entropy.hpp"
#include "kernels/cuda/attention_variants.hpp"
#include "kernels/cuda/convolution_variants.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/norm.hpp"
#include "kernels/update.hpp"
#include "tests/benchmarks/peaks.hpp"

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <functional>

using namespace tessera;

namespace {

constexpr int in_a_row = 10;
constexpr std::int64_t rows = 16384;

// Device memory with numbers in it. The benchmark's own thread uses one stream for all.
class Bench {
public:
    Stream stream = gpu_stream(0);
    std::unique_ptr<Timer> timer = std::visit([](const auto& s) { return make_timer(s); }, stream);

    View numbers(const Shape& shape, DType dtype) {
        buffers_.push_back(random_numbers(stream, shape.count(), dtype));
        return {buffers_.back().data(), shape, dtype};
    }
    View classes(std::int64_t count, std::int64_t below) {
        buffers_.push_back(std::visit([&](const auto& s) { return allocate(s, count * 4); }, stream));
        std::vector<std::int32_t> host(static_cast<std::size_t>(count));
        for (std::size_t i = 0; i < host.size(); ++i)
            host[i] = static_cast<std::int32_t>(i * 7919 % static_cast<std::size_t>(below));
        const View there(buffers_.back().data(), Shape{count}, DType::i32);
        std::visit([&](auto& s) { kernels::upload(s, ConstView(host.data(), there.shape, DType::i32), there); },
                   stream);
        return there;
    }
    View workspace(std::int64_t bytes) { return numbers(Shape{bytes / 4}, DType::f32); }

    void clear() { buffers_.clear(); }

private:
    std::vector<Buffer> buffers_;
};

using Work = std::function<void(CudaStream&)>;
struct Prepared { // one kernel call, and what it moves and computes
    Work work;
    double flops = 0, bytes = 0;
};

void time(benchmark::State& state, Bench& bench, const std::function<Prepared(Bench&, CudaStream&)>& prepare) {
    auto& stream = std::get<CudaStream>(bench.stream);
    const Prepared call = prepare(bench, stream);
    call.work(stream);
    for (auto _ : state) {
        bench.timer->mark();
        for (int i = 0; i < in_a_row; ++i)
            call.work(stream);
        bench.timer->mark();
        state.SetIterationTime(bench.timer->take().at(0));
    }
    using benchmark::Counter;
    const auto rate = [](double once) { return Counter(in_a_row * once, Counter::kIsIterationInvariantRate); };
    state.counters["us"] = Counter(1e-6 * in_a_row, Counter::kIsIterationInvariantRate | Counter::kInvert);
    if (call.flops > 0) state.counters["FLOP/s"] = rate(call.flops);
    if (call.bytes > 0) state.counters["B/s"] = rate(call.bytes);
    bench.clear();
}

void add(Bench& bench, const std::string& name, std::function<Prepared(Bench&, CudaStream&)> prepare) {
    benchmark::RegisterBenchmark(
        name.c_str(), [&bench, prepare = std::move(prepare)](benchmark::State& state) { time(state, bench, prepare); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->MinTime(0.05);
}

void add_matmul(Bench& bench, const std::string& what, Matmul product) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
        product.input = dtype;
        if (!product.transpose_a) product.output = dtype; // a gradient of weights is f32
        const auto name = fmt::format("matmul/{}/{}/{}x{}x{}/{}{}", name_of(dtype), what, product.m, product.n,
                                      product.k, product.transpose_a ? "T" : "N", product.transpose_b ? "T" : "N");
        add(bench, name, [product](Bench& b, CudaStream& stream) {
            const View x = b.numbers({product.m, product.k}, product.input);
            const View w = b.numbers({product.k, product.n}, product.input);
            const View y = b.numbers({product.m, product.n}, product.output);
            const View workspace = b.workspace(kernels::matmul_workspace_bytes(stream, product));
            const auto size = static_cast<double>(product.m * product.n);
            return Prepared{[=](CudaStream& s) { kernels::matmul(s, product, x, w, {}, y, workspace); },
                            2 * size * static_cast<double>(product.k),
                            static_cast<double>(x.bytes() + w.bytes() + y.bytes())};
        });
    }
}

void add_matmuls(Bench& bench) {
    struct Layer {
        const char* name;
        std::int64_t in, out;
    };
    for (const std::int64_t width : {768, 1600})
        for (const Layer& layer :
             {Layer{"qkv", width, 3 * width}, Layer{"out", width, width}, Layer{"up", width, 4 * width},
              Layer{"down", 4 * width, width}, Layer{"head", width, 50257}, Layer{"head", width, 50304}}) {
            add_matmul(bench, layer.name, {.m = rows, .n = layer.out, .k = layer.in, .transpose_b = true});
            add_matmul(bench, fmt::format("{} dX", layer.name), {.m = rows, .n = layer.in, .k = layer.out});
            add_matmul(bench, fmt::format("{} dW", layer.name),
                       {.m = layer.out, .n = layer.in, .k = rows, .transpose_a = true});
        }
    add_matmul(bench, "square", {.m = 8192, .n = 8192, .k = 8192});
}

using kernels::AttentionVariant;
using kernels::ConvolutionVariant;

// Causal; the operations that are needed: two products forward, five backward, over half of the scores.
void add_attention(Bench& bench, AttentionVariant variant, const Shape& qkv, bool gradient) {
    const kernels::AttentionShape shape{qkv[0], qkv[1], qkv[3], qkv[3], qkv[4], 0.01f, true};
    const auto name = fmt::format("attention{}{}/bf16/B{}xT{}xH{}xD{}", gradient ? "_gradient" : "",
                                  variant == AttentionVariant::library ? "_cudnn" : "", qkv[0], qkv[1], qkv[3], qkv[4]);
    add(bench, name, [=](Bench& b, CudaStream& stream) {
        const View in = b.numbers(qkv, DType::bf16), out = b.numbers(qkv, DType::bf16);
        const Shape heads{qkv[0], qkv[1], qkv[3], qkv[4]};
        const View y = b.numbers(heads, DType::bf16), dy = b.numbers(heads, DType::bf16);
        const View logarithms = b.numbers({qkv[0], qkv[3], qkv[1]}, DType::f32);
        const View workspace =
            b.workspace(gradient ? kernels::attention_gradient_workspace_bytes(stream, variant, shape, DType::bf16)
                                 : kernels::attention_workspace_bytes(stream, variant, shape, DType::bf16));
        const auto scores = static_cast<double>(qkv[0] * qkv[3] * (qkv[1] * (qkv[1] + 1) / 2) * qkv[4]);
        Prepared forward{[=](CudaStream& s) { kernels::attention(s, variant, shape, in, y, logarithms, workspace); },
                         4 * scores, static_cast<double>(in.bytes() + y.bytes())};
        if (!gradient) return forward;
        const View scratch = b.workspace(kernels::attention_workspace_bytes(stream, variant, shape, DType::bf16));
        kernels::attention(stream, variant, shape, in, y, logarithms, scratch);
        return Prepared{[=](CudaStream& s) {
                            kernels::attention_gradient(s, variant, shape, in, y, dy, logarithms, out, workspace);
                        },
                        10 * scores, static_cast<double>(2 * in.bytes() + 2 * y.bytes())};
    });
}

enum class Part { forward, input_gradient, weight_gradient };

// A window of `size` by `size` that keeps the image's size, but for its stride.
void add_convolution(Bench& bench, ConvolutionVariant variant, Part part, DType dtype, const Shape& image,
                     std::int64_t filters, const WindowDim& dim) {
    const Convolution shape{image[0], image[1], image[2], image[3], filters, 1, {dim, dim}};
    constexpr const char* suffixes[] = {"", "_input_gradient", "_weight_gradient"};
    const auto name = fmt::format("convolution{}{}/{}/{}x{}x{}x{}/{}x{}x{}s{}", suffixes[static_cast<int>(part)],
                                  variant == ConvolutionVariant::tiled ? "_tiled" : "", name_of(dtype), image[0],
                                  image[1], image[2], image[3], filters, dim.size, dim.size, dim.stride);
    add(bench, name, [=](Bench& b, CudaStream& stream) {
        const View x = b.numbers(image, dtype);
        const View y = b.numbers({image[0], shape.out_height(), shape.out_width(), filters}, dtype);
        const Shape weights{filters, dim.size, dim.size, image[3]};
        const View w = b.numbers(weights, part == Part::weight_gradient ? DType::f32 : dtype);
        const double flops = 2.0 * static_cast<double>(y.count()) * static_cast<double>(shape.taps());
        const auto bytes = static_cast<double>(x.bytes() + w.bytes() + y.bytes());
        switch (part) {
        case Part::forward: {
            const View workspace = b.workspace(kernels::convolution_workspace_bytes(stream, shape, dtype));
            return Prepared{[=](CudaStream& s) { kernels::convolution(s, variant, shape, x, w, {}, y, workspace); },
                            flops, bytes};
        }
        case Part::input_gradient: {
            const View workspace =
                b.workspace(kernels::convolution_input_gradient_workspace_bytes(stream, shape, dtype));
            return Prepared{
                [=](CudaStream& s) { kernels::convolution_input_gradient(s, variant, shape, y, w, x, workspace); },
                flops, bytes};
        }
        case Part::weight_gradient:
            break;
        }
        const View workspace = b.workspace(kernels::convolution_weight_gradient_workspace_bytes(stream, shape, dtype));
        return Prepared{
            [=](CudaStream& s) { kernels::convolution_weight_gradient(s, variant, shape, y, x, w, workspace); }, flops,
            bytes};
    });
}

// A layer of each kind in ResNet-50, with 32 images.
void add_convolutions(Bench& bench) {
    struct Layer {
        Shape image;
        std::int64_t filters;
        WindowDim dim;
    };
    const Layer layers[] = {{{32, 56, 56, 64}, 64, {3, 1, 1, 1, 1}},
                            {{32, 224, 224, 3}, 64, {7, 2, 1, 3, 3}},
                            {{32, 56, 56, 256}, 128, {}},
                            {{32, 28, 28, 256}, 256, {3, 2, 1, 1, 1}},
                            {{32, 7, 7, 512}, 512, {3, 1, 1, 1, 1}}};
    const auto add_all = [&](const Layer& layer, DType dtype) {
        for (const Part part : {Part::forward, Part::input_gradient, Part::weight_gradient})
            for (const auto variant : {ConvolutionVariant::fastest, ConvolutionVariant::tiled})
                add_convolution(bench, variant, part, dtype, layer.image, layer.filters, layer.dim);
    };
    add_all(layers[0], DType::f32);
    for (const Layer& layer : layers)
        add_all(layer, DType::bf16);
}

void add_rows(Bench& bench, std::int64_t width) {
    const Shape shape{rows, width};
    const double bytes = 2.0 * static_cast<double>(rows * width);
    const auto named = [&](const char* kernel) { return fmt::format("{}/bf16/{}x{}", kernel, rows, width); };
    add(bench, named("layer_norm"), [=](Bench& b, CudaStream&) {
        const View x = b.numbers(shape, DType::bf16), y = b.numbers(shape, DType::bf16);
        const View scale = b.numbers({width}, DType::f32), mean = b.numbers({rows}, DType::f32);
        const View rstd = b.numbers({rows}, DType::f32);
        return Prepared{[=](CudaStream& s) { kernels::layer_norm(s, x, scale, scale, 1e-5f, y, mean, rstd); }, 0,
                        2 * bytes};
    });
    add(bench, named("layer_norm_gradient"), [=](Bench& b, CudaStream& stream) {
        const View x = b.numbers(shape, DType::bf16), dy = b.numbers(shape, DType::bf16);
        const View dx = b.numbers(shape, DType::bf16), scale = b.numbers({width}, DType::f32);
        const View mean = b.numbers({rows}, DType::f32), rstd = b.numbers({rows}, DType::f32);
        const View dscale = b.numbers({width}, DType::f32), dbias = b.numbers({width}, DType::f32);
        const View workspace = b.workspace(kernels::norm_gradient_workspace_bytes(stream, rows, width));
        return Prepared{[=](CudaStream& s) {
                            kernels::layer_norm_gradient(s, x, scale, mean, rstd, dy, dx, dscale, dbias, workspace);
                        },
                        0, 3 * bytes};
    });
    add(bench, named("add"), [=](Bench& b, CudaStream&) {
        const View x = b.numbers(shape, DType::bf16), y = b.numbers(shape, DType::bf16),
                   z = b.numbers(shape, DType::bf16);
        return Prepared{[=](CudaStream& s) { kernels::add(s, x, y, z); }, 0, 3 * bytes};
    });
    add(bench, fmt::format("gelu_tanh/bf16/{}x{}", rows, 4 * width), [=](Bench& b, CudaStream&) {
        const View x = b.numbers({rows, 4 * width}, DType::bf16), y = b.numbers({rows, 4 * width}, DType::bf16);
        return Prepared{[=](CudaStream& s) { kernels::activation(s, Activation::gelu_tanh, x, y); }, 0, 8 * bytes};
    });
}

void add_cross_entropy(Bench& bench, std::int64_t classes) {
    add(bench, fmt::format("cross_entropy_with_gradient/bf16/{}x{}", rows, classes), [=](Bench& b, CudaStream&) {
        const View logits = b.numbers({rows, classes}, DType::bf16), losses = b.numbers({rows}, DType::f32);
        const View targets = b.classes(rows, 50257), scale = b.numbers({}, DType::f32);
        return Prepared{[=](CudaStream& s) {
                            kernels::cross_entropy_with_gradient(s, 50257, logits, targets, scale, losses, logits);
                        },
                        0, 2.0 * static_cast<double>(logits.bytes())};
    });
}

void add_adam(Bench& bench, std::int64_t count) {
    add(bench, fmt::format("adam/{}", count), [=](Bench& b, CudaStream&) {
        const View weight = b.numbers({count}, DType::f32), gradient = b.numbers({count}, DType::f32);
        const View first = b.numbers({count}, DType::f32), second = b.numbers({count}, DType::f32);
        const View copy = b.numbers({count}, DType::bf16), factor = b.numbers({}, DType::f32);
        const View pace = b.numbers({kernels::adam_pace_count}, DType::f32);
        const auto adam = [=](CudaStream& s) {
            const std::span<const View> copies(&copy, 1);
            kernels::adam(s, {}, pace, factor, {{&gradient, 1}, {&weight, 1}, {&first, 1}, {&second, 1}, copies});
        };
        return Prepared{adam, 0, 30.0 * static_cast<double>(count)};
    });
}

void add_all(Bench& bench) {
    add_matmuls(bench);
    for (const Shape& qkv : {Shape{16, 1024, 3, 12, 64}, Shape{16, 1024, 3, 25, 64}, Shape{4, 4096, 3, 16, 128}})
        for (const bool gradient : {false, true})
            for (const auto variant : {AttentionVariant::fastest, AttentionVariant::library})
                add_attention(bench, variant, qkv, gradient);
    add_convolutions(bench);
    for (const std::int64_t width : {768, 1600})
        add_rows(bench, width);
    for (const std::int64_t classes : {50257, 50304})
        add_cross_entropy(bench, classes);
    add_adam(bench, 124439808);
}

} // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    try {
        Bench bench;
        add_all(bench);
        benchmark::RunSpecifiedBenchmarks();
    } catch (const std::exception& error) {
        fmt::print(stderr, "bench_gpu_kernels: {}\n", error.what());
        return 2;
    }
}
