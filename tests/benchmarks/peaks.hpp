// SPDX-License-Identifier: Apache-2.0
// The two ceilings of a device, measured before anything is said to be a share of them.
#pragma once

#include "kernels/copy.hpp"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "kernels/peak.hpp"
#include "kernels/timer.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace tessera {

struct Peaks {
    double flops = 0; // per second
    double bytes = 0; // per second, read and written ones both counted
    std::string flops_of;
};

// Numbers of either sign with magnitudes from 1 to 2: a GPU multiplies zeros faster than these.
inline Buffer random_numbers(Stream& stream, std::int64_t count, DType dtype) {
    Buffer host(align_up(count * bytes_of(dtype)));
    const std::uint32_t keep = dtype == DType::f32 ? 0x807fffffu : 0x807f807fu;
    const std::uint32_t exponent = dtype == DType::f32 ? 0x3f800000u : 0x3f803f80u;
    std::uint64_t state = 1;
    for (std::int64_t at = 0; at < host.bytes(); at += 4) { // Knuth's MMIX generator; its high bits are good
        state = state * 6364136223846793005u + 1442695040888963407u;
        const auto word = (static_cast<std::uint32_t>(state >> 32) & keep) | exponent;
        std::memcpy(host.data() + at, &word, 4);
    }
    return std::visit(
        [&](auto& s) {
            Buffer there = allocate(s, host.bytes());
            const Shape shape{host.bytes() / 4};
            kernels::upload(s, ConstView(host.data(), shape, DType::i32), View(there.data(), shape, DType::i32));
            return there;
        },
        stream);
}

// The least time of some runs of `work`, in seconds.
template <class Work> double best_seconds(Stream& stream, int runs, const Work& work) {
    const auto timer = std::visit([](const auto& s) { return make_timer(s); }, stream);
    work();
    for (int run = 0; run < runs; ++run) {
        timer->mark();
        work();
    }
    timer->mark();
    const std::vector<double> seconds = timer->take();
    return *std::min_element(seconds.begin(), seconds.end());
}

// A square product of 8192 rows; memory that no cache holds.
inline double product_flops(Stream& stream, DType dtype) {
    constexpr std::int64_t n = 8192;
    const Matmul product{.m = n, .n = n, .k = n, .input = dtype, .output = dtype};
    const Buffer a = random_numbers(stream, n * n, dtype), b = random_numbers(stream, n * n, dtype);
    const Buffer c = random_numbers(stream, n * n, dtype);
    const auto view = [&](const Buffer& buffer) { return View(buffer.data(), Shape{n, n}, dtype); };
    return std::visit(
        [&](auto& s) {
            const std::int64_t bytes = kernels::matmul_workspace_bytes(s, product);
            const Buffer workspace = allocate(s, bytes);
            const View scratch(workspace.data(), Shape{bytes / 4}, DType::f32);
            const double seconds =
                best_seconds(stream, 10, [&] { kernels::matmul(s, product, view(a), view(b), {}, view(c), scratch); });
            return 2.0 * n * n * n / seconds;
        },
        stream);
}

inline double copy_bytes_per_second(Stream& stream, std::int64_t bytes) {
    const Buffer from = random_numbers(stream, bytes / 4, DType::f32),
                 to = random_numbers(stream, bytes / 4, DType::f32);
    const Shape shape{bytes / 4};
    return std::visit(
        [&](auto& s) {
            return 2.0 * static_cast<double>(bytes) / best_seconds(stream, 10, [&] {
                       kernels::cast(s, ConstView(from.data(), shape, DType::f32), View(to.data(), shape, DType::f32));
                   });
        },
        stream);
}

// On a CPU the operations are those of f32 vectors, whatever the dtype; on a GPU those of a product in it.
inline Peaks measured_peaks(Stream& stream, DType dtype) {
    if (auto* cpu = std::get_if<CpuStream>(&stream))
        return {kernels::peak_flops(*cpu), copy_bytes_per_second(stream, std::int64_t{1} << 28), "f32 multiply-adds"};
    return {product_flops(stream, dtype), copy_bytes_per_second(stream, std::int64_t{1} << 31),
            std::string("an 8192 x 8192 x 8192 product in ") + std::string(name_of(dtype))};
}

} // namespace tessera
