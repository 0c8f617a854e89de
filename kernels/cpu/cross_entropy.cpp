// SPDX-License-Identifier: Apache-2.0
// Cross entropy on the CPU. A row is read once for the losses and once more for the gradient: the maximum and the sum
// are carried over chunks that stay in the first cache.
#include "kernels/cross_entropy.hpp"

#include "kernels/cpu/cross_entropy_row.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 16384;

// The gradient of one row. A row of one chunk finds its powers in `kept`, a longer one makes them anew.
template <class T> TESSERA_INLINE void gradient_of_row(const T* logits, std::int64_t classes, std::int64_t target,
                                                       float maximum, float sum, float scale, const float* kept,
                                                       T* dlogits) {
    const float logit = static_cast<float>(logits[target]); // read before dlogits overwrites it
    const float factor = scale / sum;
    if (classes <= logit_chunk)
        simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(dlogits + c, simd::load(kept + c) * factor, width);
        });
    else
        simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(dlogits + c, simd::exp(simd::load(logits + c, width) - maximum) * factor, width);
        });
    const float power = classes <= logit_chunk ? kept[target] : simd::exp(simd::all(logit - maximum))[0];
    dlogits[target] = T(power * factor - scale);
}

// dlogits may be null: losses alone. Rows are taken some at a time, so that the steps of one row need not wait for
// those of another, and so that one logarithm serves sixteen.
template <class T> TESSERA_MULTIVERSION void cross_entropy_rows(const T* logits, const std::int32_t* targets,
                                                                float scale, std::int64_t classes, std::int64_t columns,
                                                                std::int64_t begin, std::int64_t end, float* losses,
                                                                T* dlogits) {
    alignas(64) float kept[logit_chunk];
    const std::int64_t batch =
        std::clamp<std::int64_t>(2 * logit_chunk / std::max<std::int64_t>(classes, 1), 1, simd::lanes);
    for (std::int64_t first = begin; first < end; first += batch) {
        const std::int64_t rows = std::min(batch, end - first);
        float maxima[simd::lanes], sums[simd::lanes], offsets[simd::lanes];
        for (std::int64_t i = 0; i < rows; ++i)
            maxima[i] = maximum_of(logits + (first + i) * columns, std::min(classes, logit_chunk), lowest_logit);
        for (std::int64_t i = 0; i < rows; ++i) {
            const T* row = logits + (first + i) * columns;
            const std::int64_t target = targets[first + i];
            if (target == ignore_index) {
                sums[i] = 1;
                offsets[i] = 0;
                if (dlogits != nullptr) std::fill_n(dlogits + (first + i) * columns, columns, T(0.0f));
                continue;
            }
            const LogitStatistics found = statistics_of_row(row, classes, maxima[i], kept);
            sums[i] = found.sum;
            offsets[i] = found.maximum - static_cast<float>(row[target]);
            if (dlogits == nullptr) continue;
            T* gradient = dlogits + (first + i) * columns;
            gradient_of_row(row, classes, target, found.maximum, found.sum, scale, kept, gradient);
            std::fill(gradient + classes, gradient + columns, T(0.0f));
        }
        for (std::int64_t i = rows; i < simd::lanes; ++i)
            sums[i] = 1, offsets[i] = 0;
        const Floats loss = simd::log(simd::load(sums)) + simd::load(offsets);
        for (std::int64_t i = 0; i < rows; ++i)
            losses[first + i] = loss[i];
    }
}

void run(CpuStream& stream, std::string_view kernel, std::int64_t classes, ConstView logits, ConstView targets,
         float scale, View losses, View dlogits) {
    const std::int64_t rows = targets.count();
    const std::int64_t columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes(kernel, classes, columns);
    check_count(kernel, "logits", logits, rows * columns);
    check_count(kernel, "losses", losses, rows);
    if (dlogits) check_count(kernel, "dlogits", dlogits, logits.count());
    check_classes("target", targets, classes, ignore_index);
    with_float_type(kernel, logits.dtype, [&]<class T>() {
        T* gradient = dlogits ? dlogits.as<T>() : nullptr;
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            cross_entropy_rows(logits.as<T>(), targets.as<std::int32_t>(), scale, classes, columns, begin, end,
                               losses.as<float>(), gradient);
        };
        stream.parallel(rows, rows_per_thread(classes, elements_per_thread), std::ref(work));
    });
}

} // namespace

void cross_entropy(CpuStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View losses) {
    run(stream, "cross_entropy", classes, logits, targets, 0, losses, {});
}

void cross_entropy_with_gradient(CpuStream& stream, std::int64_t classes, ConstView logits, ConstView targets,
                                 ConstView scale, View losses, View dlogits) {
    check_count("cross_entropy_with_gradient", "scale", scale, 1);
    run(stream, "cross_entropy_with_gradient", classes, logits, targets, *scale.as<float>(), losses, dlogits);
}

} // namespace tessera::kernels
