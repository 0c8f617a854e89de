// SPDX-License-Identifier: Apache-2.0
// Copies and fills on the CPU.
#include "kernels/copy.hpp"

#include "kernels/cpu/loops.hpp"

#include <algorithm>
#include <cstddef>

namespace tessera::kernels {
namespace {

constexpr std::int64_t grain = 65536; // elements worth a thread

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
void download(CpuStream& stream, ConstView x, View host) { cast(stream, x, host); }

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
