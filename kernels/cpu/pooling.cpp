// SPDX-License-Identifier: Apache-2.0
// Pooling on the CPU: sixteen channels at a time. Gradients are gathered by those who receive them, so that no sum
// crosses threads.
#include "kernels/pooling.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/windows.hpp"
#include "kernels/pooling_check.hpp"

#include <limits>

namespace tessera::kernels {
namespace {

using simd::Floats;
using simd::Ints;

constexpr std::int64_t elements_per_thread = 16384; // times the taps of each

struct Pool : Windows {
    bool count_padding;

    // How many taps of an output are in the image, along one dim.
    TESSERA_INLINE static std::int64_t inside(const WindowDim& dim, std::int64_t output, std::int64_t length) {
        std::int64_t count = 0;
        for (std::int64_t tap = 0; tap < dim.size; ++tap)
            count += input(dim, output, tap) >= 0 && input(dim, output, tap) < length;
        return count;
    }
    // What the sum over an output's window is multiplied by.
    TESSERA_INLINE float share(std::int64_t p, std::int64_t q) const {
        const std::int64_t count =
            count_padding ? rows.size * columns.size : inside(rows, p, height) * inside(columns, q, width);
        return count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
    }
};

Pool pool_of(const Pooling& shape, bool count_padding = false) { return {windows_of(shape), count_padding}; }

TESSERA_INLINE Ints load_ints(const std::int32_t* from, simd::Full) {
    Ints value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
TESSERA_INLINE Ints load_ints(const std::int32_t* from, std::int64_t count) {
    Ints value{};
    std::memcpy(&value, from, static_cast<std::size_t>(count) * sizeof(std::int32_t));
    return value;
}
TESSERA_INLINE void store_ints(std::int32_t* to, Ints value, simd::Full) { std::memcpy(to, &value, sizeof value); }
TESSERA_INLINE void store_ints(std::int32_t* to, Ints value, std::int64_t count) {
    std::memcpy(to, &value, static_cast<std::size_t>(count) * sizeof(std::int32_t));
}

// The first largest value of each lane, or a NaN, and its tap. A plain loop over the lanes: the compiler makes masks of
// its comparisons, which it does not of whole vectors' where several meet.
struct Largest {
    float best[simd::lanes];
    std::int32_t found[simd::lanes];

    TESSERA_INLINE Largest() {
        for (int lane = 0; lane < simd::lanes; ++lane) {
            best[lane] = -std::numeric_limits<float>::infinity();
            found[lane] = -1;
        }
    }
    TESSERA_INLINE void see(Floats values, std::int32_t tap) {
        float value[simd::lanes];
        simd::store(value, values);
#pragma omp simd
        for (int lane = 0; lane < simd::lanes; ++lane) {
            const bool better = (value[lane] > best[lane]) | (value[lane] != value[lane]) | (found[lane] < 0);
            best[lane] = better ? value[lane] : best[lane];
            found[lane] = better ? tap : found[lane];
        }
    }
};

// The outputs that look at a pixel and with which tap, found once for all of its channels; in a large window each time.
struct Lookers {
    static constexpr std::int64_t most = 32;
    std::int64_t from[most];
    std::int32_t tap[most];
    int count = 0;

    TESSERA_INLINE void find(const Pool& pool, std::int64_t image, std::int64_t row, std::int64_t column) {
        count = 0;
        for_outputs(pool, image, row, column,
                    [&](std::int64_t, std::int64_t, std::int64_t at, std::int64_t of) TESSERA_INLINED {
                        from[count] = at;
                        tap[count++] = static_cast<std::int32_t>(of);
                    });
    }
};

// Lines are rows of all images, [begin, end) of them.
template <class T> TESSERA_MULTIVERSION void take_largest(const Pool& pool, std::int64_t begin, std::int64_t end,
                                                          const T* x, T* y, std::int32_t* taps) {
    for (std::int64_t i = begin * pool.out_width; i < end * pool.out_width; ++i) {
        const std::int64_t q = i % pool.out_width, p = i / pool.out_width % pool.out_height;
        const std::int64_t image = i / pool.out_width / pool.out_height, at = i * pool.channels;
        simd::for_columns(pool.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
            Largest largest;
            for_inputs(pool, image, p, q, [&](std::int64_t from, std::int64_t tap) TESSERA_INLINED {
                largest.see(simd::load(x + from + c, width), static_cast<std::int32_t>(tap));
            });
            simd::store(y + at + c, simd::load(largest.best), width);
            store_ints(taps + at + c, load_ints(largest.found, simd::Full{}), width);
        });
    }
}

template <class T> TESSERA_MULTIVERSION void give_to_largest(const Pool& pool, std::int64_t begin, std::int64_t end,
                                                             const T* dy, const std::int32_t* taps, T* dx) {
    const bool listed = pool.rows.size * pool.columns.size <= Lookers::most;
    Lookers lookers;
    for (std::int64_t i = begin * pool.width; i < end * pool.width; ++i) {
        const std::int64_t column = i % pool.width, row = i / pool.width % pool.height;
        const std::int64_t image = i / pool.width / pool.height;
        if (listed) lookers.find(pool, image, row, column);
        simd::for_columns(pool.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
            Floats sum{};
            const auto add = [&](std::int64_t from, std::int64_t tap) TESSERA_INLINED {
                const Ints here = load_ints(taps + from + c, width) == static_cast<std::int32_t>(tap);
                sum += here ? simd::load(dy + from + c, width) : Floats{};
            };
            if (listed)
                for (int looker = 0; looker < lookers.count; ++looker)
                    add(lookers.from[looker], lookers.tap[looker]);
            else
                for_outputs(pool, image, row, column,
                            [&](std::int64_t, std::int64_t, std::int64_t from, std::int64_t tap)
                                TESSERA_INLINED { add(from, tap); });
            simd::store(dx + i * pool.channels + c, sum, width);
        });
    }
}

template <class T>
TESSERA_MULTIVERSION void take_mean(const Pool& pool, std::int64_t begin, std::int64_t end, const T* x, T* y) {
    for (std::int64_t i = begin * pool.out_width; i < end * pool.out_width; ++i) {
        const std::int64_t q = i % pool.out_width, p = i / pool.out_width % pool.out_height;
        const std::int64_t image = i / pool.out_width / pool.out_height;
        const float share = pool.share(p, q);
        simd::for_columns(pool.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
            Floats sum{};
            for_inputs(pool, image, p, q, [&](std::int64_t from, std::int64_t) TESSERA_INLINED {
                sum += simd::load(x + from + c, width);
            });
            simd::store(y + i * pool.channels + c, sum * share, width);
        });
    }
}

template <class T>
TESSERA_MULTIVERSION void give_to_all(const Pool& pool, std::int64_t begin, std::int64_t end, const T* dy, T* dx) {
    for (std::int64_t i = begin * pool.width; i < end * pool.width; ++i) {
        const std::int64_t column = i % pool.width, row = i / pool.width % pool.height;
        const std::int64_t image = i / pool.width / pool.height;
        simd::for_columns(pool.channels, [&](std::int64_t c, auto width) TESSERA_INLINED {
            Floats sum{};
            for_outputs(pool, image, row, column,
                        [&](std::int64_t p, std::int64_t q, std::int64_t from, std::int64_t)
                            TESSERA_INLINED { sum += simd::load(dy + from + c, width) * pool.share(p, q); });
            simd::store(dx + i * pool.channels + c, sum, width);
        });
    }
}

std::int64_t lines_per_thread(const Pooling& shape, std::int64_t width) {
    return rows_per_thread(width * shape.channels * shape.window.taps(), elements_per_thread);
}

} // namespace

void max_pool(CpuStream& stream, const Pooling& shape, ConstView x, View y, View taps) {
    check_pooling("max_pool", shape, x, y);
    check_count("max_pool", "the taps", taps, shape.outputs());
    with_float_type("max_pool", x.dtype, [&]<class T>() {
        stream.parallel(shape.batch * shape.out_height(), lines_per_thread(shape, shape.out_width()),
                        [&](std::int64_t begin, std::int64_t end) {
                            take_largest(pool_of(shape), begin, end, x.as<T>(), y.as<T>(), taps.as<std::int32_t>());
                        });
    });
}

void max_pool_gradient(CpuStream& stream, const Pooling& shape, ConstView dy, ConstView taps, View dx) {
    check_pooling("max_pool_gradient", shape, dx, dy);
    check_count("max_pool_gradient", "the taps", taps, shape.outputs());
    with_float_type("max_pool_gradient", dy.dtype, [&]<class T>() {
        stream.parallel(shape.batch * shape.height, lines_per_thread(shape, shape.width),
                        [&](std::int64_t begin, std::int64_t end) {
                            give_to_largest(pool_of(shape), begin, end, dy.as<T>(), taps.as<std::int32_t>(),
                                            dx.as<T>());
                        });
    });
}

void average_pool(CpuStream& stream, const Pooling& shape, bool count_padding, ConstView x, View y) {
    check_pooling("average_pool", shape, x, y);
    with_float_type("average_pool", x.dtype, [&]<class T>() {
        stream.parallel(shape.batch * shape.out_height(), lines_per_thread(shape, shape.out_width()),
                        [&](std::int64_t begin, std::int64_t end) {
                            take_mean(pool_of(shape, count_padding), begin, end, x.as<T>(), y.as<T>());
                        });
    });
}

void average_pool_gradient(CpuStream& stream, const Pooling& shape, bool count_padding, ConstView dy, View dx) {
    check_pooling("average_pool_gradient", shape, dx, dy);
    with_float_type("average_pool_gradient", dy.dtype, [&]<class T>() {
        stream.parallel(shape.batch * shape.height, lines_per_thread(shape, shape.width),
                        [&](std::int64_t begin, std::int64_t end) {
                            give_to_all(pool_of(shape, count_padding), begin, end, dy.as<T>(), dx.as<T>());
                        });
    });
}

} // namespace tessera::kernels
