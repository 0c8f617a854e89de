// SPDX-License-Identifier: Apache-2.0
// Counts of classes on the CPU, by plain loops: they run in evaluations only.
#include "kernels/classification.hpp"

#include "kernels/cpu/loops.hpp"

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

void score_counts(CpuStream& stream, ConstView logits, ConstView targets, View bins, View counts) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? 2 : logits.count() / rows;
    check_row_classes("score_counts", 2, columns);
    check_count("score_counts", "logits", logits, rows * columns);
    check_count("score_counts", "bins", bins, rows);
    const std::int64_t most = counts.count() / 2;
    with_float_type("score_counts", logits.dtype, [&]<class T>() {
        find_places(stream, logits.as<T>(), rows, columns, bins.as<std::int32_t>(), [&](const T* row) {
            const float score = static_cast<float>(row[1]) - static_cast<float>(row[0]);
            const float bin = (score + score_limit) * (static_cast<float>(most) / (2 * score_limit));
            return static_cast<std::int32_t>(std::min(static_cast<float>(most - 1), bin > 0 ? bin : 0.0f));
        });
    });
    count(targets, bins, 2, counts);
}

} // namespace tessera::kernels
