// SPDX-License-Identifier: Apache-2.0
// The smoothed and weighted cross entropy on the CPU: one pass over a row for its statistics, one for the logits' mean,
// one for the gradient.
#include "kernels/smoothed_cross_entropy.hpp"

#include "kernels/cpu/cross_entropy_row.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 16384;

struct Wanted {
    std::int64_t classes;
    float smoothing;
    const float* weights; // null: ones

    TESSERA_INLINE float weight(std::int64_t c) const { return weights == nullptr ? 1.0f : weights[c]; }
    // smoothing / V * class_weights[c...]
    template <class Width> TESSERA_INLINE Floats shared(std::int64_t c, Width width) const {
        const float share = smoothing / static_cast<float>(classes);
        return weights == nullptr ? simd::all(share) : simd::load(weights + c, width) * share;
    }
};

// dlogits may be null: losses alone.
template <class T> TESSERA_MULTIVERSION void smoothed_rows(const T* logits, const std::int32_t* targets,
                                                           const Wanted& wanted, float scale, std::int64_t columns,
                                                           std::int64_t begin, std::int64_t end, float* losses,
                                                           T* dlogits) {
    alignas(64) float kept[logit_chunk];
    float shared_sum = 0; // of smoothing / V * class_weights
    for (std::int64_t c = 0; c < wanted.classes; ++c)
        shared_sum += wanted.weight(c);
    shared_sum *= wanted.smoothing / static_cast<float>(wanted.classes);
    for (std::int64_t n = begin; n < end; ++n) {
        const T* row = logits + n * columns;
        const std::int64_t target = targets[n];
        if (target == ignore_index) {
            losses[n] = 0;
            if (dlogits != nullptr) std::fill_n(dlogits + n * columns, columns, T(0.0f));
            continue;
        }
        const float maximum = maximum_of(row, std::min(wanted.classes, logit_chunk), lowest_logit);
        const LogitStatistics found = statistics_of_row(row, wanted.classes, maximum, kept);
        const float own = (1 - wanted.smoothing) * wanted.weight(target), all = own + shared_sum;
        Floats below{}; // sum of shared * (maximum - logit)
        if (wanted.smoothing > 0)
            simd::for_columns(wanted.classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
                below += wanted.shared(c, width) * (found.maximum - simd::load(row + c, width, found.maximum));
            });
        const float logit = static_cast<float>(row[target]); // before dlogits overwrites it
        const float logarithm = simd::log(simd::all(found.sum))[0];
        losses[n] = all * logarithm + own * (found.maximum - logit) + simd::sum(below);
        if (dlogits == nullptr) continue;
        T* gradient = dlogits + n * columns;
        const float factor = scale * all / found.sum;
        const float power = simd::exp(simd::all(logit - found.maximum))[0];
        simd::for_columns(wanted.classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            const Floats share = simd::exp(simd::load(row + c, width) - found.maximum) * factor;
            simd::store(gradient + c, share - wanted.shared(c, width) * scale, width);
        });
        const float of_target = wanted.smoothing / static_cast<float>(wanted.classes) * wanted.weight(target) + own;
        gradient[target] = T(power * factor - of_target * scale);
        std::fill(gradient + wanted.classes, gradient + columns, T(0.0f));
    }
}

void run(CpuStream& stream, std::string_view kernel, std::int64_t classes, float smoothing, ConstView logits,
         ConstView targets, ConstView class_weights, float scale, View losses, View dlogits) {
    const std::int64_t rows = targets.count();
    const std::int64_t columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes(kernel, classes, columns);
    check_count(kernel, "logits", logits, rows * columns);
    check_count(kernel, "losses", losses, rows);
    if (class_weights) check_count(kernel, "class_weights", class_weights, classes);
    if (dlogits) check_count(kernel, "dlogits", dlogits, logits.count());
    check_classes("target", targets, classes, ignore_index);
    const Wanted wanted{classes, smoothing, class_weights ? class_weights.as<float>() : nullptr};
    with_float_type(kernel, logits.dtype, [&]<class T>() {
        T* gradient = dlogits ? dlogits.as<T>() : nullptr;
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            smoothed_rows(logits.as<T>(), targets.as<std::int32_t>(), wanted, scale, columns, begin, end,
                          losses.as<float>(), gradient);
        };
        stream.parallel(rows, rows_per_thread(classes, elements_per_thread), std::ref(work));
    });
}

} // namespace

void smoothed_cross_entropy(CpuStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                            ConstView targets, ConstView class_weights, View losses) {
    run(stream, "smoothed_cross_entropy", classes, smoothing, logits, targets, class_weights, 0, losses, {});
}

void smoothed_cross_entropy_with_gradient(CpuStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                          ConstView targets, ConstView class_weights, ConstView scale, View losses,
                                          View dlogits) {
    check_count("smoothed_cross_entropy_with_gradient", "scale", scale, 1);
    run(stream, "smoothed_cross_entropy_with_gradient", classes, smoothing, logits, targets, class_weights,
        *scale.as<float>(), losses, dlogits);
}

} // namespace tessera::kernels
