// SPDX-License-Identifier: Apache-2.0
// Times kernels and collectives.
#include "core/run/measure_machine.hpp"

#include "kernels/attention.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <functional>

namespace tessera {
namespace {

constexpr int attempts = 5; // of which the best counts: the others were disturbed

using Call = std::function<void()>;

// Times work that all ranks do at once.
class Stopwatch {
public:
    Stopwatch(const Bench& bench, Stream& stream)
        : groups_(bench.groups), stream_(stream), host_(bench.host), attempt_seconds_(bench.seconds / attempts) {}
    // Of this rank alone; `slowness` calls count as one.
    Stopwatch(const Bench& bench, int slowness) : Stopwatch(bench, bench.stream) {
        alone_ = true;
        slowness_ = slowness;
    }

    // Seconds of one call on the slowest rank, in the best of some attempts.
    double seconds_of(const Call& call) {
        once(call, 1);
        const double first = once(call, 1);
        const int repeats = static_cast<int>(std::clamp(attempt_seconds_ / first, 1.0, 10'000.0));
        double best = first;
        for (int attempt = 0; attempt < attempts; ++attempt)
            best = std::min(best, once(call, repeats));
        return best;
    }

private:
    double once(const Call& call, int repeats) {
        groups_.all().barrier(host_);
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < repeats * slowness_; ++i)
            call();
        groups_.wait(stream_);
        auto seconds = std::chrono::duration<float>(std::chrono::steady_clock::now() - begin).count();
        if (!alone_) groups_.all().all_reduce(host_, View(&seconds, {}, DType::f32), Reduction::max);
        return static_cast<double>(seconds) / repeats;
    }

    Groups& groups_;
    Stream& stream_;
    Stream& host_;
    double attempt_seconds_;
    bool alone_ = false;
    int slowness_ = 1;
};

bool is_gpu(const Stream& stream) { return !std::holds_alternative<CpuStream>(stream); }

// Memory where the stream works; zeros, so that nothing becomes infinite.
Buffer memory_on(Stream& stream, std::int64_t bytes) {
    Buffer buffer = std::visit([&](const auto& s) { return allocate(s, bytes); }, stream);
    const View words(buffer.data(), {bytes / 4}, DType::f32);
    std::visit([&](auto& s) { kernels::scale(s, words, 0, words); }, stream);
    return buffer;
}

double product_flops(Stopwatch& watch, Stream& stream, DType dtype) {
    const std::int64_t size = is_gpu(stream) ? 8192 : 1024;
    const bool eight_bits = dtype == DType::f8e4m3;
    const Matmul product{.m = size,
                         .n = size,
                         .k = size,
                         .transpose_b = true,
                         .input = dtype,
                         .output = eight_bits ? DType::bf16 : dtype};
    const std::int64_t bytes = size * size * bytes_of(dtype);
    Buffer a = memory_on(stream, bytes), b = memory_on(stream, bytes),
           c = memory_on(stream, bytes * (eight_bits ? 2 : 1));
    Buffer one = memory_on(stream, 64);
    const View scale(one.data(), {}, DType::f32);
    const MatmulScales scales = eight_bits ? MatmulScales{scale, scale} : MatmulScales{};
    Buffer workspace =
        memory_on(stream, std::visit([&](auto& s) { return kernels::matmul_workspace_bytes(s, product); }, stream) + 4);
    const auto view = [&](const Buffer& buffer) { return View(buffer.data(), {size, size}, dtype); };
    const View result(c.data(), {size, size}, product.output);
    const View scratch(workspace.data(), {workspace.bytes() / 4}, DType::f32);
    const double seconds = watch.seconds_of([&] {
        std::visit([&](auto& s) { kernels::matmul(s, product, view(a), view(b), {}, result, scratch, scales); },
                   stream);
    });
    return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) / seconds;
}

// Forward and backward, causal, as the plan counts it: two products and four.
double attention_flops(Stopwatch& watch, Stream& stream, DType dtype) {
    const std::int64_t batch = is_gpu(stream) ? 16 : 1, heads = is_gpu(stream) ? 16 : 4;
    const kernels::AttentionShape shape{.batch = batch,
                                        .tokens = 1024,
                                        .heads = heads,
                                        .kv_heads = heads,
                                        .head_dim = 64,
                                        .scale = 0.125f,
                                        .causal = true};
    const std::int64_t y_bytes = shape.y_count() * bytes_of(dtype);
    Buffer qkv = memory_on(stream, shape.qkv_count() * bytes_of(dtype)), y = memory_on(stream, y_bytes),
           sums = memory_on(stream, shape.row_count() * 4), dy = memory_on(stream, y_bytes),
           dqkv = memory_on(stream, shape.qkv_count() * bytes_of(dtype));
    const std::int64_t scratch_bytes = std::visit(
        [&](auto& s) {
            return std::max(kernels::attention_workspace_bytes(s, shape, dtype),
                            kernels::attention_gradient_workspace_bytes(s, shape, dtype));
        },
        stream);
    Buffer scratch = memory_on(stream, scratch_bytes + 4);
    const auto view = [&](const Buffer& buffer, DType type) {
        return View(buffer.data(), {buffer.bytes() / bytes_of(type)}, type);
    };
    const auto sized = [&](const Buffer& buffer, std::int64_t count) { return View(buffer.data(), {count}, dtype); };
    const View sums_view(sums.data(), {shape.row_count()}, DType::f32);
    const double seconds = watch.seconds_of([&] {
        std::visit(
            [&](auto& s) {
                kernels::attention(s, shape, sized(qkv, shape.qkv_count()), sized(y, shape.y_count()), sums_view,
                                   view(scratch, DType::f32));
                kernels::attention_gradient(s, shape, sized(qkv, shape.qkv_count()), sized(y, shape.y_count()),
                                            sized(dy, shape.y_count()), sums_view, sized(dqkv, shape.qkv_count()),
                                            view(scratch, DType::f32));
            },
            stream);
    });
    return 6.0 * static_cast<double>(shape.row_count() * shape.tokens * shape.head_dim) / seconds;
}

double seconds_of_add(Stopwatch& watch, Stream& stream, std::int64_t count) {
    Buffer a = memory_on(stream, count * 4), b = memory_on(stream, count * 4), y = memory_on(stream, count * 4);
    const auto view = [&](const Buffer& buffer) { return View(buffer.data(), {count}, DType::f32); };
    return watch.seconds_of([&] { std::visit([&](auto& s) { kernels::add(s, view(a), view(b), view(y)); }, stream); });
}

// A collective on so many bytes in all.
using Collecting = std::function<void(std::int64_t whole_bytes)>;

constexpr std::int64_t short_bytes = 4 << 10, long_bytes = 16 << 20;

// `messages` that wait for each other, and the bytes that a rank sends of the long whole and of the short one.
Link solve(Stopwatch& watch, const Collecting& collect, double messages, double of_long, double of_short) {
    const double slow = watch.seconds_of([&] { collect(long_bytes); });
    const double quick = watch.seconds_of([&] { collect(short_bytes); });
    const double beta = (of_long - of_short) / std::max(slow - quick, 1e-9);
    return {std::max(quick - of_short / beta, quick / 2) / messages, beta}; // noise could make it less than nothing
}

// What only GPUs multiply faster: f32 rounded to tf32, and 8-bit factors where they have them.
void measure_gpu(const Bench& bench, Machine& machine) {
    Stream rounding = std::visit(
        [](const auto& s) -> Stream {
            if constexpr (requires { s.device(); })
                return gpu_stream(s.device(), {.tf32 = true});
            else
                return s.sibling();
        },
        bench.stream);
    Stopwatch watch(bench, rounding);
    machine.tf32_flops = product_flops(watch, rounding, DType::f32);
    if (std::visit([](const auto& s) { return kernels::matmul_has_f8(s); }, rounding))
        machine.f8_flops = product_flops(watch, rounding, DType::f8e4m3);
}

} // namespace

std::vector<MeasuredRate> measure_rank(const Bench& bench, Machine& machine) {
    Stream& stream = bench.stream;
    Stopwatch watch(bench, bench.stream);
    machine.gpu = is_gpu(stream);
    machine.f32_flops = machine.tf32_flops = product_flops(watch, stream, DType::f32);
    machine.bf16_flops = product_flops(watch, stream, DType::bf16);
    machine.f16_flops = product_flops(watch, stream, DType::f16);
    machine.f8_flops = machine.gpu ? machine.bf16_flops : machine.f32_flops; // CPUs widen 8-bit factors
    if (machine.gpu) measure_gpu(bench, machine);
    machine.product_efficiency = 1;
    const double attention = attention_flops(watch, stream, DType::bf16);
    const double f32_attention = attention_flops(watch, stream, DType::f32);
    machine.attention_efficiency = std::min(attention / machine.bf16_flops, 1.0);
    machine.f32_attention_efficiency = std::min(f32_attention / machine.f32_flops, 1.0);
    constexpr std::int64_t large = 16 << 20;
    machine.memory_bandwidth = 3.0 * large * 4 / seconds_of_add(watch, stream, large);
    machine.call_seconds = seconds_of_add(watch, stream, 16);
    std::vector<MeasuredRate> rates = {{"products, f32", machine.f32_flops},
                                       {"products, bf16", machine.bf16_flops},
                                       {"products, f16", machine.f16_flops}};
    if (machine.gpu) {
        rates.push_back({"products, tf32", machine.tf32_flops});
        rates.push_back({"products, f8", machine.f8_flops});
    }
    rates.push_back({"attention, f32", f32_attention});
    rates.push_back({"attention, bf16", attention});
    rates.push_back({"memory", 0, machine.memory_bandwidth});
    rates.push_back({"a call", 0, 0, machine.call_seconds});
    return rates;
}

OwnRates measure_own(const Bench& bench, int slowness) {
    Stopwatch watch(bench, slowness);
    constexpr std::int64_t large = 8 << 20;
    const double flops = product_flops(watch, bench.stream, DType::f32);
    return {flops, 3.0 * large * 4 / seconds_of_add(watch, bench.stream, large)};
}

std::vector<MeasuredRate> measure_links(const std::string& name, int axis, const Bench& bench, Links& links) {
    Communicator& ranks = bench.groups.axis(axis);
    Stream& stream = bench.stream;
    if (ranks.size() == 1) return {};
    Stopwatch watch(bench, bench.stream);
    const int size = ranks.size();
    const std::int64_t whole = long_bytes / size / 4 * size * 4; // in whole parts
    Buffer window = ranks.allocate(stream, long_bytes), other = memory_on(stream, long_bytes);
    Buffer workspace = memory_on(stream, ranks.workspace_bytes(Collective::all_reduce, long_bytes) + 4);
    ranks.use_workspace(View(workspace.data(), {workspace.bytes() / 4}, DType::f32));
    const auto floats = [&](const Buffer& buffer, std::int64_t bytes) {
        const std::int64_t count = std::min(bytes, whole) / 4 / size * size;
        return View(buffer.data(), {count}, DType::f32);
    };
    const SummationTree tree(size, size);
    const auto sent = [&](Collective collective, std::int64_t bytes) {
        return static_cast<double>(bytes_sent(collective, floats(window, bytes).bytes(), size));
    };
    const auto measure = [&](Collective collective, const Collecting& collect) {
        const int messages = (collective == Collective::all_reduce ? 2 : 1) * (size - 1);
        return solve(watch, collect, messages, sent(collective, long_bytes), sent(collective, short_bytes));
    };
    links.all_reduce = measure(Collective::all_reduce,
                               [&](std::int64_t bytes) { ranks.tree_reduce(stream, floats(window, bytes), tree); });
    links.all_gather = measure(Collective::all_gather, [&](std::int64_t bytes) {
        const View all = floats(other, bytes);
        const std::int64_t part = all.count() / size;
        ranks.all_gather(stream, View(other.data() + ranks.rank() * part * 4, {part}, DType::f32), all);
    });
    // Of this one the sizes are a rank's own: the whole is as many times larger.
    const auto own = [&](std::int64_t bytes) { return sent(Collective::all_to_all, bytes) * size; };
    links.all_to_all = solve(
        watch, [&](std::int64_t bytes) { ranks.all_to_all(stream, floats(other, bytes), floats(window, bytes)); },
        size - 1, own(long_bytes), own(short_bytes));
    // Neighbours in pairs, there and back; the last of an odd number has none.
    const int pair = ranks.rank() ^ 1;
    const Link both = solve(
        watch,
        [&](std::int64_t bytes) {
            if (pair >= size) return;
            for (const bool there : {true, false})
                if (there == (ranks.rank() % 2 == 0))
                    ranks.send(stream, floats(other, bytes), pair);
                else
                    ranks.receive(stream, floats(other, bytes), pair);
        },
        1, static_cast<double>(whole), static_cast<double>(floats(other, short_bytes).bytes()));
    links.send = {both.alpha / 2, both.beta * 2};
    ranks.use_workspace({});
    return {{name + "all-reduce", 0, links.all_reduce.beta, links.all_reduce.alpha},
            {name + "all-gather", 0, links.all_gather.beta, links.all_gather.alpha},
            {name + "all-to-all", 0, links.all_to_all.beta, links.all_to_all.alpha},
            {name + "message", 0, links.send.beta, links.send.alpha}};
}

} // namespace tessera
