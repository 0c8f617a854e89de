// SPDX-License-Identifier: Apache-2.0
// Copies and fills on the CPU.
#include "kernels/copy.hpp"

#include "kernels/cpu/loops.hpp"

#include <algorithm>
#include <cstddef>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tessera::kernels {
namespace {

constexpr std::int64_t grain = 65536; // elements worth a thread

// Bytes from which on a copy for later goes past the caches: of so many nobody finds any there. memcpy does so by
// itself above some ten times as many only.
constexpr std::int64_t past_caches = 1 << 20;

// Lines that are written without being read before: two movements of the bytes where there were three.
void copy_past_caches(std::byte* to, const std::byte* from, std::int64_t bytes) {
#if defined(__SSE2__)
    constexpr std::int64_t line = 64;
    const std::int64_t head = -reinterpret_cast<std::intptr_t>(to) & (line - 1);
    std::memcpy(to, from, static_cast<std::size_t>(std::min(head, bytes)));
    std::int64_t i = std::min(head, bytes);
    for (; i + line <= bytes; i += line)
        for (std::int64_t word = i; word < i + line; word += 16)
            _mm_stream_si128(reinterpret_cast<__m128i*>(to + word),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + word)));
    _mm_sfence(); // before other threads are told of it
    std::memcpy(to + i, from + i, static_cast<std::size_t>(bytes - i));
#else
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
#endif
}

struct Same {
    TESSERA_INLINE simd::Floats operator()(simd::Floats x) const { return x; }
};

} // namespace

void cast(CpuStream& stream, ConstView x, View y) {
    check_count("cast", "the result", y, x.count());
    if (x.dtype == y.dtype) {
        const std::int64_t size = bytes_of(x.dtype);
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            std::memcpy(static_cast<char*>(y.memory()) + begin * size, static_cast<const char*>(x.data) + begin * size,
                        static_cast<std::size_t>((end - begin) * size));
        };
        stream.parallel(x.count(), grain, std::ref(work));
    } else {
        with_float_type("cast", x.dtype, [&]<class From>() {
            with_float_type("cast", y.dtype,
                            [&]<class To>() { map(stream, grain, Same{}, x.count(), y.as<To>(), x.as<From>()); });
        });
    }
}

void replace(CpuStream& stream, ConstView factor, ConstView x, View y) {
    check_count("replace", "factor", factor, 1);
    check_count("replace", "the result", y, x.count());
    if (*factor.as<float>() != 0) cast(stream, x, y);
}

void upload(CpuStream& stream, ConstView host, View y) { cast(stream, host, y); }
void begin_upload(CpuStream& stream, ConstView host, View y) { cast(stream, host, y); }
void end_uploads(CpuStream&) {}

// A copy for later.
void download(CpuStream& stream, ConstView x, View host) {
    if (x.dtype != host.dtype || x.bytes() < past_caches) return cast(stream, x, host);
    check_count("download", "the result", host, x.count());
    const std::int64_t size = bytes_of(x.dtype);
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        copy_past_caches(static_cast<std::byte*>(host.memory()) + begin * size,
                         static_cast<const std::byte*>(x.data) + begin * size, (end - begin) * size);
    };
    stream.parallel(x.count(), grain, std::ref(work));
}

void copy_blocks(CpuStream& stream, const Blocks& blocks, ConstView from, View to) {
    if (blocks.bytes == 0) return;
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            std::memcpy(static_cast<std::byte*>(to.memory()) + i * blocks.to_step,
                        static_cast<const std::byte*>(from.data) + i * blocks.from_step,
                        static_cast<std::size_t>(blocks.bytes));
    };
    stream.parallel(blocks.count, std::max<std::int64_t>(1, 4 * grain / blocks.bytes), std::ref(work));
}

void fill(CpuStream& stream, View y, float value) {
    with_float_type("fill", y.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            std::fill(y.as<T>() + begin, y.as<T>() + end, T(value));
        };
        stream.parallel(y.count(), grain, std::ref(work));
    });
}

} // namespace tessera::kernels
