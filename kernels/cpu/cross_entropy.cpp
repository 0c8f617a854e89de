// SPDX-License-Identifier: Apache-2.0
// Cross entropy on the CPU. A row is read once for the losses and once more for the gradient: the maximum and the sum
// are carried over chunks that stay in the first cache.
#include "kernels/cross_entropy.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"

#include <limits>

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t chunk = 4096;
constexpr std::int64_t elements_per_thread = 16384;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float lowest = std::numeric_limits<float>::lowest(); // of no logit: a difference to it is no NaN

template <class T> TESSERA_INLINE float maximum_of(const T* logits, std::int64_t count, float at_least) {
    Floats highest = simd::all(at_least);
    simd::for_columns(count, [&](std::int64_t c, auto width) TESSERA_INLINED {
        highest = simd::max(highest, simd::load(logits + c, width, -infinity));
    });
    return simd::max(highest);
}

// The sum, lane by lane, of exp(logit - maximum). The powers go to `kept`, which has room for whole vectors.
template <class T>
TESSERA_INLINE Floats sum_of_powers(const T* logits, std::int64_t count, float maximum, float* kept) {
    Floats sums{};
    simd::for_columns(count, [&](std::int64_t c, auto width) TESSERA_INLINED {
        const Floats power = simd::exp(simd::load(logits + c, width, -infinity) - maximum);
        sums += power;
        simd::store(kept + c, power);
    });
    return sums;
}

// The gradient of one row. A row of one chunk finds its powers in `kept`, a longer one makes them anew.
template <class T> TESSERA_INLINE void gradient_of_row(const T* logits, std::int64_t classes, std::int64_t target,
                                                       float maximum, float sum, float scale, const float* kept,
                                                       T* dlogits) {
    const float logit = static_cast<float>(logits[target]); // read before dlogits overwrites it
    const float factor = scale / sum;
    if (classes <= chunk)
        simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(dlogits + c, simd::load(kept + c) * factor, width);
        });
    else
        simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(dlogits + c, simd::exp(simd::load(logits + c, width) - maximum) * factor, width);
        });
    const float power = classes <= chunk ? kept[target] : simd::exp(simd::all(logit - maximum))[0];
    dlogits[target] = T(power * factor - scale);
}

// dlogits may be null: losses alone. Rows are taken some at a time, so that the steps of one row need not wait for
// those of another, and so that one logarithm serves sixteen.
template <class T> TESSERA_MULTIVERSION void cross_entropy_rows(const T* logits, const std::int32_t* targets,
                                                                float scale, std::int64_t classes, std::int64_t begin,
                                                                std::int64_t end, float* losses, T* dlogits) {
    alignas(64) float kept[chunk];
    const std::int64_t batch = std::clamp<std::int64_t>(2 * chunk / std::max<std::int64_t>(classes, 1), 1, simd::lanes);
    for (std::int64_t first = begin; first < end; first += batch) {
        const std::int64_t rows = std::min(batch, end - first);
        float maxima[simd::lanes], sums[simd::lanes], offsets[simd::lanes];
        for (std::int64_t i = 0; i < rows; ++i)
            maxima[i] = maximum_of(logits + (first + i) * classes, std::min(classes, chunk), lowest);
        for (std::int64_t i = 0; i < rows; ++i) {
            const T* row = logits + (first + i) * classes;
            const std::int64_t target = targets[first + i];
            if (target == ignore_index) {
                sums[i] = 1;
                offsets[i] = 0;
                if (dlogits != nullptr) std::fill_n(dlogits + (first + i) * classes, classes, T(0.0f));
                continue;
            }
            float maximum = maxima[i];
            Floats total = sum_of_powers(row, std::min(classes, chunk), maximum, kept);
            for (std::int64_t c = chunk; c < classes; c += chunk) {
                const std::int64_t count = std::min(chunk, classes - c);
                const float higher = maximum_of(row + c, count, maximum);
                total *= simd::exp(simd::all(maximum - higher));
                maximum = higher;
                total += sum_of_powers(row + c, count, maximum, kept);
            }
            sums[i] = simd::sum(total);
            offsets[i] = maximum - static_cast<float>(row[target]);
            if (dlogits != nullptr)
                gradient_of_row(row, classes, target, maximum, sums[i], scale, kept, dlogits + (first + i) * classes);
        }
        for (std::int64_t i = rows; i < simd::lanes; ++i)
            sums[i] = 1, offsets[i] = 0;
        const Floats loss = simd::log(simd::load(sums)) + simd::load(offsets);
        for (std::int64_t i = 0; i < rows; ++i)
            losses[first + i] = loss[i];
    }
}

void run(CpuStream& stream, std::string_view kernel, ConstView logits, ConstView targets, float scale, View losses,
         View dlogits) {
    const std::int64_t rows = targets.count();
    const std::int64_t classes = rows == 0 ? 0 : logits.count() / rows;
    check_count(kernel, "logits", logits, rows * classes);
    check_count(kernel, "losses", losses, rows);
    if (dlogits) check_count(kernel, "dlogits", dlogits, logits.count());
    check_classes("target", targets, classes, ignore_index);
    with_float_type(kernel, logits.dtype, [&]<class T>() {
        T* gradient = dlogits ? dlogits.as<T>() : nullptr;
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            cross_entropy_rows(logits.as<T>(), targets.as<std::int32_t>(), scale, classes, begin, end,
                               losses.as<float>(), gradient);
        };
        stream.parallel(rows, rows_per_thread(classes, elements_per_thread), std::ref(work));
    });
}

} // namespace

void cross_entropy(CpuStream& stream, ConstView logits, ConstView targets, View losses) {
    run(stream, "cross_entropy", logits, targets, 0, losses, {});
}

void cross_entropy_with_gradient(CpuStream& stream, ConstView logits, ConstView targets, ConstView scale, View losses,
                                 View dlogits) {
    check_count("cross_entropy_with_gradient", "scale", scale, 1);
    run(stream, "cross_entropy_with_gradient", logits, targets, *scale.as<float>(), losses, dlogits);
}

} // namespace tessera::kernels
