// SPDX-License-Identifier: Apache-2.0
// The cross entropy of probabilities on the CPU: one pass over a row for its statistics, one for its loss, one for the
// gradient.
#include "kernels/soft_cross_entropy.hpp"

#include "kernels/cpu/cross_entropy_row.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 16384;

template <class T> TESSERA_MULTIVERSION void soft_rows(const T* logits, const float* probabilities,
                                                       std::int64_t classes, float smoothing, float scale,
                                                       std::int64_t columns, std::int64_t begin, std::int64_t end,
                                                       float* losses, T* dlogits) {
    alignas(64) float kept[logit_chunk];
    for (std::int64_t n = begin; n < end; ++n) {
        const T* row = logits + n * columns;
        const float* wanted = probabilities + n * classes;
        const float highest = maximum_of(row, std::min(classes, logit_chunk), lowest_logit);
        const LogitStatistics found = statistics_of_row(row, classes, highest, kept);
        Floats sums{}, below_wanted{}, below{}; // of the probabilities; of maximum - logit, by them and of all
        simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            const Floats probability = simd::load(wanted + c, width);
            const Floats distance = found.maximum - simd::load(row + c, width, found.maximum);
            sums += probability;
            below_wanted += probability * distance;
            below += distance;
        });
        const float all = simd::sum(sums), share = smoothing / static_cast<float>(classes) * all;
        losses[n] = all * simd::log(simd::all(found.sum))[0] + (1 - smoothing) * simd::sum(below_wanted) +
                    share * simd::sum(below);
        T* gradient = dlogits + n * columns;
        const float factor = scale * all / found.sum, kept_share = (1 - smoothing) * scale;
        simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            const Floats power = simd::exp(simd::load(row + c, width) - found.maximum);
            simd::store(gradient + c, power * factor - simd::load(wanted + c, width) * kept_share - share * scale,
                        width);
        });
        std::fill(gradient + classes, gradient + columns, T(0.0f));
    }
}

} // namespace

void soft_cross_entropy_with_gradient(CpuStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                      ConstView probabilities, ConstView scale, View losses, View dlogits) {
    constexpr std::string_view kernel = "soft_cross_entropy_with_gradient";
    const std::int64_t rows = losses.count();
    const std::int64_t columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes(kernel, classes, columns);
    check_count(kernel, "logits", logits, rows * columns);
    check_count(kernel, "probabilities", probabilities, rows * classes);
    check_count(kernel, "scale", scale, 1);
    check_count(kernel, "dlogits", dlogits, logits.count());
    with_float_type(kernel, logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            soft_rows(logits.as<T>(), probabilities.as<float>(), classes, smoothing, *scale.as<float>(), columns, begin,
                      end, losses.as<float>(), dlogits.as<T>());
        };
        stream.parallel(rows, rows_per_thread(classes, elements_per_thread), std::ref(work));
    });
}

} // namespace tessera::kernels
