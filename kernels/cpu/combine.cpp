// SPDX-License-Identifier: Apache-2.0
// Combines a block at a time: what is between source and target stays in the first-level cache.
#include "kernels/combine.hpp"

#include "kernels/cpu/simd.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

namespace tessera::kernels {
namespace {

constexpr int block = 64;       // elements combined together: 4 AVX-512 registers of f32
constexpr int most_levels = 66; // no tree over 2^63 leaves is deeper

// f32, bf16 and f16 are combined as float, i32 as unsigned, whose sums may wrap around.
template <class T> struct Wide { using type = float; };
template <> struct Wide<std::int32_t> { using type = std::uint32_t; };

TESSERA_INLINE float widen(float value) { return value; }
TESSERA_INLINE float widen(BFloat16 value) { return static_cast<float>(value); }
TESSERA_INLINE float widen(Float16 value) { return static_cast<float>(value); }
TESSERA_INLINE std::uint32_t widen(std::int32_t value) { return static_cast<std::uint32_t>(value); }

TESSERA_INLINE void narrow(float value, float& to) { to = value; }
TESSERA_INLINE void narrow(float value, BFloat16& to) { to = BFloat16(value); }
TESSERA_INLINE void narrow(float value, Float16& to) { to = Float16(value); }
TESSERA_INLINE void narrow(std::uint32_t value, std::int32_t& to) { to = static_cast<std::int32_t>(value); }

// A NaN on either side wins.
TESSERA_INLINE float larger(float a, float b) { return b > a || b != b ? b : a; }
TESSERA_INLINE float smaller(float a, float b) { return b < a || b != b ? b : a; }
TESSERA_INLINE std::uint32_t larger(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::int32_t>(b) > static_cast<std::int32_t>(a) ? b : a;
}
TESSERA_INLINE std::uint32_t smaller(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::int32_t>(b) < static_cast<std::int32_t>(a) ? b : a;
}

template <Reduction reduction, class V> TESSERA_INLINE V apply(V a, V b) {
    if constexpr (reduction == Reduction::sum) return a + b;
    if constexpr (reduction == Reduction::max) return larger(a, b);
    if constexpr (reduction == Reduction::min) return smaller(a, b);
}

struct Work {
    const int* merges_after;
    const std::byte* const* sources;
    int source_count;
    std::byte* const* targets;
    int target_count;
};

// Elements [at, at + count), count <= block.
template <class T, Reduction reduction>
TESSERA_INLINE void combine_block(const Work& work, std::int64_t at, int count) {
    using V = typename Wide<T>::type;
    V stack[most_levels][block];
    int depth = 0;
    for (int rank = 0; rank < work.source_count; ++rank) {
        const T* source = reinterpret_cast<const T*>(work.sources[rank]) + at;
        int merges = work.merges_after[rank];
        if (merges == 0) {
            for (int i = 0; i < count; ++i)
                stack[depth][i] = widen(source[i]);
            ++depth;
            continue;
        }
        V* top = stack[depth - 1];
        for (int i = 0; i < count; ++i)
            top[i] = apply<reduction>(top[i], widen(source[i]));
        for (; merges > 1; --merges) {
            --depth;
            for (int i = 0; i < count; ++i)
                stack[depth - 1][i] = apply<reduction>(stack[depth - 1][i], stack[depth][i]);
        }
    }
    for (int target = 0; target < work.target_count; ++target) {
        T* to = reinterpret_cast<T*>(work.targets[target]) + at;
        for (int i = 0; i < count; ++i)
            narrow(stack[0][i], to[i]);
    }
}

template <class T, Reduction reduction>
TESSERA_INLINE void combine_range(const Work& work, std::int64_t begin, std::int64_t end) {
    std::int64_t at = begin;
    for (; at + block <= end; at += block)
        combine_block<T, reduction>(work, at, block);
    if (at < end) combine_block<T, reduction>(work, at, static_cast<int>(end - at));
}

TESSERA_MULTIVERSION void combine_f32_sum(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<float, Reduction::sum>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_f32_max(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<float, Reduction::max>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_f32_min(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<float, Reduction::min>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_bf16_sum(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<BFloat16, Reduction::sum>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_bf16_max(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<BFloat16, Reduction::max>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_bf16_min(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<BFloat16, Reduction::min>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_f16_sum(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<Float16, Reduction::sum>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_f16_max(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<Float16, Reduction::max>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_f16_min(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<Float16, Reduction::min>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_i32_sum(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<std::int32_t, Reduction::sum>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_i32_max(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<std::int32_t, Reduction::max>(work, begin, end);
}
TESSERA_MULTIVERSION void combine_i32_min(const Work& work, std::int64_t begin, std::int64_t end) {
    combine_range<std::int32_t, Reduction::min>(work, begin, end);
}

using Loop = void (*)(const Work&, std::int64_t, std::int64_t);

Loop loop_for(DType dtype, Reduction reduction) {
    const auto pick = [&](Loop sum, Loop max, Loop min) {
        return reduction == Reduction::sum ? sum : reduction == Reduction::max ? max : min;
    };
    switch (dtype) {
    case DType::f32:
        return pick(combine_f32_sum, combine_f32_max, combine_f32_min);
    case DType::bf16:
        return pick(combine_bf16_sum, combine_bf16_max, combine_bf16_min);
    case DType::i32:
        return pick(combine_i32_sum, combine_i32_max, combine_i32_min);
    case DType::f16:
        return pick(combine_f16_sum, combine_f16_max, combine_f16_min);
    case DType::f8e4m3:
    case DType::f8e5m2: // of products only
        break;
    }
    throw InternalError(fmt::format("cannot reduce {}", name_of(dtype)));
}

} // namespace

int stack_levels(std::span<const int> merges_after, std::size_t sources, CombineLimits limits) {
    int depth = 0, levels = 0;
    bool possible = merges_after.size() == sources && sources > 0;
    for (const int merges : merges_after) {
        levels = std::max(levels, ++depth);
        depth -= merges;
        possible = possible && merges >= 0 && depth >= 1;
    }
    if (!possible || depth != 1)
        throw InternalError(fmt::format("combine: {} pieces in an order of {} that leaves {} values", sources,
                                        merges_after.size(), depth));
    if (sources > limits.pieces || levels > limits.levels)
        throw InternalError(fmt::format("combine: {} pieces in a tree of {} levels, this device takes {} and {}",
                                        sources, levels, limits.pieces, limits.levels));
    return levels;
}

void combine(CpuStream& stream, DType dtype, Reduction reduction, std::span<const int> merges_after,
             std::span<const std::byte* const> sources, std::int64_t count, std::span<std::byte* const> targets) {
    stack_levels(merges_after, sources.size(), {SIZE_MAX, most_levels});
    const Work work{merges_after.data(), sources.data(), static_cast<int>(sources.size()), targets.data(),
                    static_cast<int>(targets.size())};
    const Loop loop = loop_for(dtype, reduction);
    const auto pieces = [&](std::int64_t begin, std::int64_t end) { loop(work, begin, end); };
    stream.parallel(count, 16384, std::ref(pieces)); // a reference: std::function then allocates nothing
}

} // namespace tessera::kernels
