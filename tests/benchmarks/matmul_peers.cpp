// SPDX-License-Identifier: Apache-2.0
// Our matrix products beside oneDNN's, shape by shape, interleaved in one run:
// `bench_matmul_peers [THREADS [PART_OF_NAME]]`, where names are as printed: `bench_matmul_peers 2 "mlp down"`.
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "kernels/peak.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <vector>

using namespace tessera;

namespace {

struct Shape3 {
    const char* name;
    Matmul product;
};

Matmul shape(std::int64_t m, std::int64_t n, std::int64_t k, const char* layout, DType dtype) {
    Matmul product{.m = m, .n = n, .k = k, .transpose_a = layout[0] == 'T', .transpose_b = layout[1] == 'T'};
    product.input = dtype;
    product.output = layout[0] == 'T' ? DType::f32 : dtype; // a weight's gradient is f32
    return product;
}

double seconds(const std::function<void()>& run) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 5; ++i)
        run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / 5;
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

dnnl::memory::data_type type_of(DType dtype) {
    return dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// Pages never written are all one page of zeros, and reading that under many addresses is slow.
void fill(const Buffer& buffer, std::int64_t count, DType dtype) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float value = static_cast<float>(i % 251 - 125) / 128;
        if (dtype == DType::f32)
            static_cast<float*>(static_cast<void*>(buffer.data()))[i] = value;
        else
            static_cast<BFloat16*>(static_cast<void*>(buffer.data()))[i] = BFloat16(value);
    }
}

void compare(CpuStream& stream, const Shape3& shape, double peak) {
    const Matmul& p = shape.product;
    const auto bytes = [](std::int64_t count, DType dtype) { return count * bytes_of(dtype); };
    const Buffer a(bytes(p.m * p.k, p.input)), b(bytes(p.k * p.n, p.input)), c(bytes(p.m * p.n, p.output));
    fill(a, p.m * p.k, p.input);
    fill(b, p.k * p.n, p.input);
    const Buffer workspace(kernels::matmul_workspace_bytes(stream, p));
    const View va(a.data(), {p.m * p.k}, p.input), vb(b.data(), {p.k * p.n}, p.input),
        vc(c.data(), {p.m * p.n}, p.output);
    const View vw(workspace.data(), {workspace.bytes() / 4}, DType::f32);
    const auto ours = [&] { kernels::matmul(stream, p, va, vb, {}, vc, vw); };

    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream theirs_stream(engine);
    using Dims = dnnl::memory::dims;
    const dnnl::memory::desc da({p.m, p.k}, type_of(p.input), p.transpose_a ? Dims{1, p.m} : Dims{p.k, 1});
    const dnnl::memory::desc db({p.k, p.n}, type_of(p.input), p.transpose_b ? Dims{1, p.k} : Dims{p.n, 1});
    const dnnl::memory::desc dc({p.m, p.n}, type_of(p.output), Dims{p.n, 1});
    const dnnl::matmul primitive(dnnl::matmul::primitive_desc(dnnl::matmul::desc(da, db, dc), engine));
    const std::unordered_map<int, dnnl::memory> arguments = {{DNNL_ARG_SRC, {da, engine, a.data()}},
                                                             {DNNL_ARG_WEIGHTS, {db, engine, b.data()}},
                                                             {DNNL_ARG_DST, {dc, engine, c.data()}}};
    const auto theirs = [&] {
        primitive.execute(theirs_stream, arguments);
        theirs_stream.wait();
    };
    ours();
    theirs();
    std::vector<double> our_times, their_times, ratios;
    const auto rounds = static_cast<int>(std::clamp(0.2 / seconds(ours), 5.0, 60.0));
    for (int round = 0; round < rounds; ++round) {
        our_times.push_back(seconds(ours));
        their_times.push_back(seconds(theirs));
        ratios.push_back(their_times.back() / our_times.back());
    }
    const double operations = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
    fmt::print("{:<14} {:>5} x {:>5} x {:>5} {}{} {:<4}  {:>6.1f}  {:>6.1f}  {:>5.2f}  {:>5.1f} %\n", shape.name, p.m,
               p.n, p.k, p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', name_of(p.input),
               operations / median(our_times) / 1e9, operations / median(their_times) / 1e9, median(ratios),
               100 * operations / median(our_times) / peak);
    std::fflush(stdout);
}

} // namespace

int main(int argc, char** argv) {
    CpuStream stream(argc > 1 ? std::atoi(argv[1]) : 1);
    const std::string_view wanted = argc > 2 ? argv[2] : "";
    const double peak = kernels::peak_flops(stream);
    fmt::print("{} thread(s), measured f32 peak {:.1f} GFLOP/s\n", stream.threads(), peak / 1e9);
    fmt::print("{:<14} {:>21} {:<8}  {:>6}  {:>6}  {:>5}  {}\n", "product", "m x n x k", "", "ours", "oneDNN", "ratio",
               "of f32 peak");
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape3& each : {
                 Shape3{"qkv", shape(384, 384, 128, "NT", dtype)},
                 Shape3{"out", shape(384, 128, 128, "NT", dtype)},
                 Shape3{"mlp up", shape(384, 512, 128, "NT", dtype)},
                 Shape3{"mlp down", shape(384, 128, 512, "NT", dtype)},
                 Shape3{"mlp up dX", shape(384, 128, 512, "NN", dtype)},
                 Shape3{"mlp up dW", shape(512, 128, 384, "TN", dtype)},
                 Shape3{"head", shape(384, 65, 128, "NT", dtype)},
                 Shape3{"124M qkv", shape(1024, 2304, 768, "NT", dtype)},
                 Shape3{"124M mlp dX", shape(1024, 768, 3072, "NN", dtype)},
                 Shape3{"124M mlp dW", shape(3072, 768, 1024, "TN", dtype)},
                 Shape3{"square", shape(2048, 2048, 2048, "NN", dtype)},
             })
            if (std::string_view(each.name).find(wanted) != std::string_view::npos) compare(stream, each, peak);
    return 0;
}
