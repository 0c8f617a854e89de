// SPDX-License-Identifier: Apache-2.0
// Tensors in 8 bits on the CPU: plain loops, which say what the GPU's do.
#include "kernels/quantize.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/float8.hpp"

#include <atomic>
#include <bit>

namespace tessera::kernels {
namespace {

constexpr std::int64_t grain = 16384; // elements worth a thread

// As bits, whose order is that of the magnitudes, with NaN above all.
template <class T> std::uint32_t largest_magnitude(const CpuStream& stream, const T* x, std::int64_t count) {
    std::atomic<std::uint32_t> largest{0};
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        std::uint32_t part = 0;
        for (std::int64_t i = begin; i < end; ++i)
            part = std::max(part, std::bit_cast<std::uint32_t>(static_cast<float>(x[i])) & 0x7fffffffu);
        std::uint32_t found = largest;
        while (part > found && !largest.compare_exchange_weak(found, part)) {
        }
    };
    stream.parallel(count, grain, std::ref(work));
    return largest;
}

} // namespace

void quantize(CpuStream& stream, ConstView x, const Quantized& result) {
    const auto [rows, columns] = check_quantized(x, result);
    with_float_type("quantize", x.dtype, [&]<class T>() {
        const T* from = x.as<T>();
        const auto amax = std::bit_cast<float>(largest_magnitude(stream, from, x.count()));
        const float divided = amax < smallest_amax ? smallest_amax : amax; // a NaN stays
        *result.amax.as<float>() = amax;
        with_float8_type(result.dtype(), [&]<class F>() {
            *result.scale.as<float>() = divided / F::largest;
            const float factor = F::largest / divided;
            F* y = result.y ? result.y.as<F>() : nullptr;
            F* transposed = result.transposed ? result.transposed.as<F>() : nullptr;
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t row = begin; row < end; ++row)
                    for (std::int64_t column = 0; column < columns; ++column) {
                        const F value(static_cast<float>(from[row * columns + column]) * factor);
                        if (y != nullptr) y[row * columns + column] = value;
                        if (transposed != nullptr) transposed[column * rows + row] = value;
                    }
            };
            stream.parallel(rows, std::max<std::int64_t>(1, grain / std::max<std::int64_t>(1, columns)),
                            std::ref(work));
        });
    });
}

} // namespace tessera::kernels
