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

struct Statistics {
    float maximum;
    float sum; // of exp(logit - maximum)
};

// `kept` receives exp(logit - maximum) of a row of one chunk.
template <class T> TESSERA_INLINE Statistics statistics_of(const T* row, std::int64_t classes, float* kept) {
    float maximum = -infinity;
    Floats sums{};
    for (std::int64_t first = 0; first < classes; first += chunk) {
        const T* part = row + first;
        const std::int64_t count = std::min(chunk, classes - first);
        Floats highest = simd::all(maximum);
        simd::for_columns(count, [&](std::int64_t c, auto width) TESSERA_INLINED {
            highest = simd::max(highest, simd::load(part + c, width, -infinity));
        });
        const float higher = simd::max(highest);
        if (first > 0) sums *= simd::exp(simd::all(maximum - higher));
        maximum = higher;
        simd::for_columns(count, [&](std::int64_t c, auto width) TESSERA_INLINED {
            const Floats power = simd::exp(simd::load(part + c, width, -infinity) - maximum);
            sums += power;
            simd::store(kept + c, power); // a whole vector, always: kept is a multiple of it
        });
    }
    return {maximum, simd::sum(sums)};
}

// dlogits may be null: losses alone.
template <class T> TESSERA_MULTIVERSION void cross_entropy_rows(const T* logits, const std::int32_t* targets,
                                                                float scale, std::int64_t classes, std::int64_t begin,
                                                                std::int64_t end, float* losses, T* dlogits) {
    alignas(64) float kept[chunk];
    for (std::int64_t r = begin; r < end; ++r) {
        const T* row = logits + r * classes;
        if (targets[r] == ignore_index) {
            losses[r] = 0;
            if (dlogits != nullptr) std::fill_n(dlogits + r * classes, classes, T(0.0f));
            continue;
        }
        const Statistics found = statistics_of(row, classes, kept);
        const float logit = static_cast<float>(row[targets[r]]); // read before dlogits overwrites it
        losses[r] = simd::log(simd::all(found.sum))[0] + (found.maximum - logit);
        if (dlogits == nullptr) continue;
        T* to = dlogits + r * classes;
        const float factor = scale / found.sum;
        if (classes <= chunk)
            simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
                simd::store(to + c, simd::load(kept + c) * factor, width);
            });
        else
            simd::for_columns(classes, [&](std::int64_t c, auto width) TESSERA_INLINED {
                simd::store(to + c, simd::exp(simd::load(row + c, width) - found.maximum) * factor, width);
            });
        const Floats probability = simd::exp(simd::all(logit - found.maximum)) * factor;
        to[targets[r]] = T(probability[0] - scale);
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
