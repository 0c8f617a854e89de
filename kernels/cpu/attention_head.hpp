// SPDX-License-Identifier: Apache-2.0
// Attention of one head: what attention.cpp (checks, threads, memory) hands to the loops, and what the forward loops
// and those of the gradient share. Rows are padded to 8, keys to 32 and D to 16 with zeros, so that there is but one
// tile.
#pragma once

#include "kernels/cpu/tiles.hpp"

#include <algorithm>
#include <limits>

namespace tessera::kernels {

inline constexpr std::int64_t tile_queries = 8;
inline constexpr std::int64_t panel_keys = 32;
inline constexpr std::int64_t forward_keys = 512; // keys whose scores are held at one time: 16 KB of the first cache
inline constexpr std::int64_t forward_stride = forward_keys + simd::lanes; // rows of scores in different cache sets
inline constexpr std::int64_t gradient_block = 64; // queries and keys whose scores are held at one time

struct HeadSizes {
    std::int64_t queries, keys, depth;          // T, S and D
    std::int64_t q_stride, kv_stride, y_stride; // elements from one time to the next
    std::int64_t group; // query heads that share one head of keys; their rows are neighbours in q and y
    float scale;
    bool causal;

    static std::int64_t padded(std::int64_t times) {
        return (times + gradient_block - 1) / gradient_block * gradient_block;
    }
    std::int64_t padded_queries() const { return padded(queries); }
    std::int64_t padded_keys() const { return padded(keys); }
    std::int64_t padded_depth() const { return (depth + simd::lanes - 1) / simd::lanes * simd::lanes; }
    std::int64_t forward_floats() const { // of one head's memory
        return padded_keys() * (depth + padded_depth()) + padded_queries() * 2 +
               tile_queries * (forward_stride + 2 * padded_depth());
    }
    // Rows of dk and dv that wait for the other heads of the group, beyond those of one block.
    std::int64_t gradient_rows() const { return group == 1 ? gradient_block : padded_keys(); }
    std::int64_t gradient_floats() const {
        return padded_queries() * (3 * padded_depth() + 2) + padded_keys() * (2 * padded_depth() + 2 * depth) +
               2 * gradient_rows() * padded_depth() + 2 * gradient_block * (gradient_block + simd::lanes);
    }
    // Behind these, where a head has marks: a copy of the keys' segments and of the bias, and the sum of its gradient.
    std::int64_t marks_floats() const { return padded_keys() + 2 * distances(); }
    std::int64_t distances() const { return padded_queries() + padded_keys() + simd::lanes; }
};

// Which keys a query sees beyond the causal rule, and what is added to a score. Null: nothing of the kind.
struct HeadMarks {
    const std::int32_t *segments = nullptr, *key_segments = nullptr; // of the sequence's queries and keys
    const float* bias = nullptr;                                     // of distance -(T - 1) and on
    float* dbias = nullptr;                                          // in a gradient: likewise, overwritten
    std::int64_t bias_stride = 1;                                    // from one distance to the next

    bool any() const { return segments != nullptr || bias != nullptr; }
};

// Pointers to time 0 of one head; in a gradient, of a group's first head. T is float, BFloat16 or Float16.
template <class T> struct ForwardHead {
    HeadSizes sizes;
    const T *q, *k, *v;
    T* y;
    float* log_sum_exp;
    float* memory;     // sizes.forward_floats(), with marks sizes.marks_floats() more
    HeadMarks marks{}; // of this head
};

template <class T> struct GradientHead {
    HeadSizes sizes;
    const T *q, *k, *v, *y, *dy;
    const float* log_sum_exp;
    T *dq, *dk, *dv;
    float* memory;     // sizes.gradient_floats(), with marks sizes.marks_floats() more
    HeadMarks marks{}; // of the group's first head; bias and dbias of the next lie one further
};

void attention_head(const ForwardHead<float>& head);
void attention_head(const ForwardHead<BFloat16>& head);
void attention_head(const ForwardHead<Float16>& head);
void attention_gradient_head(const GradientHead<float>& head);
void attention_gradient_head(const GradientHead<BFloat16>& head);
void attention_gradient_head(const GradientHead<Float16>& head);

inline constexpr float log2_e = 1.44269504088896341f;
inline constexpr float ln_2 = 0.693147180559945309f;

// 2^x to 1 ulp or so; 0 below -126.5, NaN for NaN. Coefficients: Cephes, exp2f.
TESSERA_INLINE simd::Floats power_of_two(simd::Floats x) {
    const simd::Floats least = simd::Floats{} - 127.0f;
    x = x < least ? least : x;
    const simd::Floats shifted = x + 12582912.0f; // 1.5 * 2^23: the integer part ends up in the lowest bits
    const simd::Floats fraction = x - (shifted - 12582912.0f);
    simd::Ints exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent = (exponent << 23) + (127 << 23);
    simd::Floats power;
    std::memcpy(&power, &exponent, sizeof power);
    simd::Floats sum = fraction * 1.535336188319500e-4f + 1.339887440266574e-3f;
    sum = sum * fraction + 9.618437357674640e-3f;
    sum = sum * fraction + 5.550332471162809e-2f;
    sum = sum * fraction + 2.402264791363012e-1f;
    sum = sum * fraction + 6.931472028550421e-1f;
    sum = sum * fraction + 1.0f;
    return sum * power;
}

// log2(x) for normal x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), log(m) = 2 artanh((m - 1) / (m + 1)).
TESSERA_INLINE simd::Floats logarithm_to_two(simd::Floats x) {
    simd::Ints bits;
    std::memcpy(&bits, &x, sizeof bits);
    const simd::Ints exponent = (bits - 0x3f3504f3) >> 23;
    const simd::Ints mantissa_bits = bits - (exponent << 23);
    simd::Floats mantissa;
    std::memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
    const simd::Floats s = (mantissa - 1.0f) / (mantissa + 1.0f), square = s * s;
    simd::Floats sum = square * (1.0f / 9) + 1.0f / 7;
    sum = sum * square + 1.0f / 5;
    sum = sum * square + 1.0f / 3;
    sum = sum * square + 1.0f;
    return __builtin_convertvector(exponent, simd::Floats) + sum * s * (2 * log2_e);
}

// All lanes of each of eight vectors into one number per vector, by halves, in a fixed order; eight more are scratch.
template <class Operation>
TESSERA_INLINE void reduce_rows(const simd::Floats (&rows)[tile_queries], float* to, const Operation& operation) {
    using simd::Ints;
    const auto halve = [&](simd::Floats a, simd::Floats b, Ints low, Ints high) TESSERA_INLINE_LAMBDA {
        return operation(__builtin_shuffle(a, b, low), __builtin_shuffle(a, b, high));
    };
    simd::Floats pairs[4], fours[2];
    simd::unrolled<4>([&](auto i) TESSERA_INLINE_LAMBDA {
        pairs[i] = halve(rows[2 * i], rows[2 * i + 1], Ints{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                         Ints{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31});
    });
    simd::unrolled<2>([&](auto i) TESSERA_INLINE_LAMBDA {
        fours[i] = halve(pairs[2 * i], pairs[2 * i + 1], Ints{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27},
                         Ints{4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31});
    });
    const simd::Floats eight = halve(fours[0], fours[1], Ints{0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29},
                                     Ints{2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31});
    const simd::Floats reduced = halve(eight, eight, Ints{0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14},
                                       Ints{1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15});
    simd::store(to, reduced);
}

// The first `count` of sixteen elements (at most), zero beyond.
TESSERA_INLINE simd::Floats load_part(const float* from, std::int64_t count) {
    return count >= simd::lanes ? simd::load(from) : simd::load(from, count);
}
template <class Half> TESSERA_INLINE simd::Floats load_part(const Half* from, std::int64_t count) {
    if (count >= simd::lanes) return simd::load(from);
    Half part[simd::lanes] = {};
    for (std::int64_t i = 0; i < count; ++i)
        part[i] = from[i];
    return simd::load(part);
}
TESSERA_INLINE void store_part(float* to, simd::Floats value, std::int64_t count) {
    if (count >= simd::lanes)
        simd::store(to, value);
    else
        simd::store(to, value, count);
}
template <class Half> TESSERA_INLINE void store_part(Half* to, simd::Floats value, std::int64_t count) {
    if (count >= simd::lanes) return simd::store(to, value);
    Half part[simd::lanes];
    simd::store(part, value);
    for (std::int64_t i = 0; i < count; ++i)
        to[i] = part[i];
}

// to: (row_count, padded D) = factor * from, zero beyond its `times` or where there is no element.
template <class T> TESSERA_INLINE void pack_rows(const HeadSizes& sizes, const T* from, std::int64_t times,
                                                 std::int64_t stride, std::int64_t first_row, std::int64_t row_count,
                                                 float factor, float* to) {
    const std::int64_t depth = sizes.padded_depth();
    for (std::int64_t row = first_row; row < first_row + row_count; ++row)
        for (std::int64_t d = 0; d < depth; d += simd::lanes, to += simd::lanes)
            simd::store(to,
                        row < times ? load_part(from + row * stride + d, sizes.depth - d) * factor : simd::Floats{});
}

// to: panels of 32 keys, each (D, 32): the transposed of rows [0, key_count) of `from`.
template <class T>
TESSERA_INLINE void pack_keys(const HeadSizes& sizes, const T* from, std::int64_t key_count, float* to) {
    for (std::int64_t key = 0; key < key_count; key += simd::lanes) {
        float* panel = to + key / panel_keys * panel_keys * sizes.depth + key % panel_keys;
        for (std::int64_t d = 0; d < sizes.depth; d += simd::lanes) {
            simd::Floats block[simd::lanes];
            simd::unrolled<simd::lanes>([&](auto row) TESSERA_INLINE_LAMBDA {
                block[row] = key + row < sizes.keys
                                 ? load_part(from + (key + row) * sizes.kv_stride + d, sizes.depth - d)
                                 : simd::Floats{};
            });
            simd::transpose(block);
            simd::unrolled<simd::lanes>([&](auto row) TESSERA_INLINE_LAMBDA {
                if (d + row < sizes.depth) simd::store(panel + (d + row) * panel_keys, block[row]);
            });
        }
    }
}

// Sixteen times infinity, then sixteen times minus infinity: a window into it says which of sixteen keys are seen.
class KeyMask {
public:
    TESSERA_INLINE KeyMask() {
        simd::store(limits_, simd::Floats{} + std::numeric_limits<float>::infinity());
        simd::store(limits_ + simd::lanes, simd::Floats{} - std::numeric_limits<float>::infinity());
    }
    // Minus infinity in the lanes whose key, first_key + lane, lies beyond last_key. (A NaN there is not seen either;
    // one among the seen becomes infinity, which the softmax makes NaN again.)
    TESSERA_INLINE simd::Floats apply(simd::Floats scores, std::int64_t first_key, std::int64_t last_key) const {
        const std::int64_t seen = std::clamp<std::int64_t>(last_key - first_key + 1, 0, simd::lanes);
        return simd::min(scores, simd::load(limits_ + simd::lanes - seen));
    }

private:
    float limits_[2 * simd::lanes];
};

// Segments and bias as the tiles of scores read them: padded, and in units of log2.
class PackedMarks {
public:
    TESSERA_INLINE PackedMarks(const HeadSizes& sizes, const HeadMarks& marks, float* memory)
        : marks_(marks), last_query_(sizes.queries - 1), zero_(sizes.padded_queries()), keys_(memory),
          bias_(memory + sizes.padded_keys()), dbias_(bias_ + sizes.distances()) {
        if (marks.segments != nullptr) {
            std::memset(keys_, 0, static_cast<std::size_t>(sizes.padded_keys()) * sizeof(float));
            std::memcpy(keys_, marks.key_segments, static_cast<std::size_t>(sizes.keys) * sizeof(float));
        }
    }
    // Of query head `member` of the group.
    TESSERA_INLINE void begin(const HeadSizes& sizes, std::int64_t member) {
        if (marks_.bias == nullptr) return;
        const std::int64_t count = sizes.queries + sizes.keys - 1;
        std::memset(bias_, 0, static_cast<std::size_t>(2 * sizes.distances()) * sizeof(float)); // and its gradient
        for (std::int64_t i = 0; i < count; ++i)
            bias_[zero_ - last_query_ + i] = marks_.bias[i * marks_.bias_stride + member] * log2_e;
    }
    template <int V>
    TESSERA_INLINE void apply(std::int64_t query, std::int64_t key, simd::Floats (&scores)[tile_queries][V]) const {
        simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            constexpr int row = index / V, v = index % V;
            simd::Floats& score = scores[row][v];
            const std::int64_t at = key + v * simd::lanes;
            if (marks_.bias != nullptr) score += simd::load(bias_ + zero_ + at - (query + row));
            if (marks_.segments == nullptr) return;
            simd::Ints segments;
            std::memcpy(&segments, keys_ + at, sizeof segments);
            const std::int32_t segment = marks_.segments[std::min(query + row, last_query_)];
            score = segments == segment ? score : simd::Floats{} - std::numeric_limits<float>::infinity();
        });
    }
    TESSERA_INLINE void add_to_gradient(std::int64_t query, std::int64_t key, simd::Floats dscores) const {
        if (marks_.bias == nullptr) return;
        float* sum = dbias_ + zero_ + key - query;
        simd::store(sum, simd::load(sum) + dscores);
    }
    TESSERA_INLINE void end(const HeadSizes& sizes, std::int64_t member) const {
        if (marks_.bias == nullptr) return;
        const std::int64_t count = sizes.queries + sizes.keys - 1;
        for (std::int64_t i = 0; i < count; ++i)
            marks_.dbias[i * marks_.bias_stride + member] = dbias_[zero_ - last_query_ + i];
    }

private:
    HeadMarks marks_;
    std::int64_t last_query_, zero_; // the place of distance 0
    float *keys_, *bias_, *dbias_;
};

// In place of PackedMarks where a head has none: no instruction.
class NoMarks {
public:
    TESSERA_INLINE NoMarks(const HeadSizes&, const HeadMarks&, float*) {}
    TESSERA_INLINE void begin(const HeadSizes&, std::int64_t) {}
    template <int V> TESSERA_INLINE void apply(std::int64_t, std::int64_t, simd::Floats (&)[tile_queries][V]) const {}
    TESSERA_INLINE void add_to_gradient(std::int64_t, std::int64_t, simd::Floats) const {}
    TESSERA_INLINE void end(const HeadSizes&, std::int64_t) const {}
};

// A query that sees no key: scores begin at this, so that their distance to the largest is a number.
inline constexpr float no_score = -1e30f;

} // namespace tessera::kernels
