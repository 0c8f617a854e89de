// SPDX-License-Identifier: Apache-2.0
// Merges partial attention on the CPU, a row of one head after the other.
#include "kernels/attention_merge.hpp"

#include "kernels/cpu/loops.hpp"

#include <cmath>

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 16384;

template <class T>
TESSERA_MULTIVERSION void merge_row(std::int64_t columns, float old_share, float new_share, const T* y, float* sum) {
    simd::for_columns(columns, [&](std::int64_t d, auto width) TESSERA_INLINED {
        simd::store(sum + d, simd::load(sum + d, width) * old_share + simd::load(y + d, width) * new_share, width);
    });
}

template <class T> void merge(const CpuStream& stream, const AttentionPart& part, const T* y, const float* logarithms,
                              float* sum, float* all_logarithms) {
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) { // of (B, t, H)
            const std::int64_t b = row / (part.tokens * part.heads), t = row / part.heads % part.tokens;
            const std::int64_t h = row % part.heads, sequence = b * part.heads + h;
            float& old = all_logarithms[sequence * part.all_tokens + part.first + t];
            const float added = logarithms[sequence * part.tokens + t];
            const float largest = std::max(old, added);
            const float joined = largest + std::log(std::exp(old - largest) + std::exp(added - largest));
            merge_row(part.head_dim, std::exp(old - joined), std::exp(added - joined), y + row * part.head_dim,
                      sum + ((b * part.all_tokens + part.first + t) * part.heads + h) * part.head_dim);
            old = joined;
        }
    };
    stream.parallel(part.batch * part.tokens * part.heads, rows_per_thread(part.head_dim, elements_per_thread),
                    std::ref(work));
}

} // namespace

void attention_merge(CpuStream& stream, const AttentionPart& part, ConstView y, ConstView part_log_sum_exp, View sum,
                     View log_sum_exp) {
    check_attention_merge(part, y, part_log_sum_exp, sum, log_sum_exp);
    with_float_type("attention_merge", y.dtype, [&]<class T>() {
        merge(stream, part, y.as<T>(), part_log_sum_exp.as<float>(), sum.as<float>(), log_sum_exp.as<float>());
    });
}

} // namespace tessera::kernels
