// SPDX-License-Identifier: Apache-2.0
// Counts of classes on the CPU, by plain loops: they run in evaluations only.
#include "kernels/classification.hpp"

#include "kernels/cpu/loops.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 16384;

// place(row) of each row goes to `places`.
template <class T, class Place> void find_places(const CpuStream& stream, const T* logits, std::int64_t rows,
                                                 std::int64_t columns, std::int32_t* places, const Place& place) {
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
            places[row] = place(logits + row * columns);
    };
    stream.parallel(rows, rows_per_thread(columns, elements_per_thread), std::ref(work));
}

// counts[target, place] of each row whose target is one of the counts' rows.
void count(ConstView targets, ConstView places, std::int64_t kinds, View counts) {
    const std::int64_t columns = counts.count() / kinds;
    std::fill_n(counts.as<float>(), counts.count(), 0.0f);
    for (std::int64_t row = 0; row < targets.count(); ++row) {
        const std::int32_t target = targets.as<std::int32_t>()[row];
        if (target < 0 || target >= kinds) continue;
        counts.as<float>()[target * columns + places.as<std::int32_t>()[row]] += 1;
    }
}

} // namespace

void confusion(CpuStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View predicted,
               View counts) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes("confusion", classes, columns);
    check_count("confusion", "logits", logits, rows * columns);
    check_count("confusion", "predicted", predicted, rows);
    check_count("confusion", "counts", counts, classes * classes);
    with_float_type("confusion", logits.dtype, [&]<class T>() {
        find_places(stream, logits.as<T>(), rows, columns, predicted.as<std::int32_t>(), [&](const T* row) {
            float largest = -std::numeric_limits<float>::infinity();
            std::int32_t place = 0;
            for (std::int64_t c = 0; c < classes; ++c)
                if (const auto logit = static_cast<float>(row[c]); logit > largest) {
                    largest = logit;
                    place = static_cast<std::int32_t>(c);
                }
            return place;
        });
    });
    count(targets, predicted, classes, counts);
}

void top_k_hits(CpuStream& stream, std::int64_t classes, std::int64_t k, ConstView logits, ConstView targets,
                View hits) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes("top_k_hits", classes, columns);
    check_count("top_k_hits", "logits", logits, rows * columns);
    check_count("top_k_hits", "hits", hits, rows);
    with_float_type("top_k_hits", logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = begin; r < end; ++r) {
                const T* row = logits.as<T>() + r * columns;
                const std::int32_t target = targets.as<std::int32_t>()[r];
                hits.as<float>()[r] = 0;
                if (target < 0 || target >= classes) continue;
                const auto wanted = static_cast<float>(row[target]);
                std::int64_t before = 0;
                for (std::int64_t c = 0; c < classes; ++c) {
                    const auto logit = static_cast<float>(row[c]);
                    before += logit > wanted || (logit == wanted && c < target) ? 1 : 0;
                }
                hits.as<float>()[r] = before < k && !std::isnan(wanted) ? 1.0f : 0.0f;
            }
        };
        stream.parallel(rows, rows_per_thread(columns, elements_per_thread), std::ref(work));
    });
}

void binary_counts(CpuStream&, ConstView logits, ConstView targets, View counts) {
    const std::int64_t outcomes = counts.count() / 4, rows = targets.count() / outcomes;
    check_count("binary_counts", "logits", logits, rows * outcomes);
    std::fill_n(counts.as<float>(), counts.count(), 0.0f);
    with_float_type("binary_counts", logits.dtype, [&]<class T>() {
        for (std::int64_t i = 0; i < rows * outcomes; ++i) {
            const bool there = targets.as<float>()[i] > 0.5f, taken = static_cast<float>(logits.as<T>()[i]) > 0;
            counts.as<float>()[((there ? 2 : 0) + (taken ? 1 : 0)) * outcomes + i % outcomes] += 1;
        }
    });
}

void place_scores(CpuStream& stream, std::int64_t columns, ConstView logits, ConstView targets, ConstView first,
                  View scores) {
    const bool labels = targets.dtype == DType::i32;
    const std::int64_t rows = labels ? targets.count() : targets.count() / columns;
    const std::int64_t width = rows == 0 ? columns : logits.count() / rows, to = labels ? columns + 1 : 2 * columns;
    check_row_classes("place_scores", columns, width);
    check_count("place_scores", "logits", logits, rows * width);
    const std::int64_t begin = *first.as<std::int32_t>(), all = scores.count() / to;
    with_float_type("place_scores", logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t from, std::int64_t end) {
            std::fill(scores.as<float>() + from * to, scores.as<float>() + end * to, 0.0f);
            for (std::int64_t r = std::max(from, begin); r < std::min(end, begin + rows); ++r) {
                float* y = scores.as<float>() + r * to;
                const std::int64_t n = r - begin;
                for (std::int64_t c = 0; c < columns; ++c)
                    y[c] = static_cast<float>(logits.as<T>()[n * width + c]);
                if (labels) {
                    const std::int32_t label = targets.as<std::int32_t>()[n];
                    y[columns] = label < 0 || label >= columns ? 0.0f : static_cast<float>(label + 1);
                } else
                    std::copy_n(targets.as<float>() + n * columns, columns, y + columns);
            }
        };
        stream.parallel(all, rows_per_thread(to, elements_per_thread), std::ref(work));
    });
}

} // namespace tessera::kernels
