// SPDX-License-Identifier: Apache-2.0
// Fingerprints on the CPU.
#include "kernels/fingerprint.hpp"

#include "kernels/check.hpp"

#include <cstring>

namespace tessera::kernels {
namespace {

std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

std::uint64_t fingerprint(const std::uint32_t* bits, std::int64_t count, int threads) {
    std::uint64_t sum = 0;
#pragma omp parallel for simd reduction(+ : sum) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < count; ++i)
        sum += mixed(static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u + bits[i] * 0xd6e8feb86659fd93u);
    return sum;
}

} // namespace

void fingerprints(CpuStream& stream, std::span<const View> x, View sums) {
    check_count("fingerprints", "the result", sums, 2 * static_cast<std::int64_t>(x.size()));
    auto* result = sums.as<std::int32_t>();
    for (const View& one : x) {
        if (bytes_of(one.dtype) != 4) refuse_dtype("fingerprints", one.dtype);
        const auto* bits = static_cast<const std::uint32_t*>(one.memory());
        const std::uint64_t sum = fingerprint(bits, one.count(), stream.threads());
        std::memcpy(result, &sum, sizeof sum);
        result += 2;
    }
}

} // namespace tessera::kernels
