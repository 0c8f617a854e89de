// SPDX-License-Identifier: Apache-2.0
// Statistics, their combination and the gradient of a shard of the vocabulary on the CPU.
#include "kernels/cross_entropy_shard.hpp"

#include "kernels/cpu/cross_entropy_row.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 16384;

// The three rows of statistics.
template <class T> struct Planes {
    Planes(T* memory, std::int64_t rows) : maxima(memory), sums(memory + rows), logits(memory + 2 * rows) {}

    T* maxima;
    T* sums;
    T* logits;
};

// Of the columns of a shard, those behind the vocabulary are padding.
struct Columns {
    std::int64_t all;
    std::int64_t used;
};

// A row of the shard and the column of its target there; outside [0, columns) when another shard has it.
template <class T> TESSERA_MULTIVERSION void shard_statistics_rows(const T* logits, const std::int32_t* targets,
                                                                   std::int64_t first, Columns columns,
                                                                   std::int64_t begin, std::int64_t end,
                                                                   const Planes<float>& to) {
    alignas(64) float kept[logit_chunk];
    for (std::int64_t n = begin; n < end; ++n) {
        const T* row = logits + n * columns.all;
        LogitStatistics found{lowest_logit, 0};
        float logit = 0;
        if (targets[n] != ignore_index) {
            const float maximum = maximum_of(row, std::min(columns.used, logit_chunk), lowest_logit);
            found = statistics_of_row(row, columns.used, maximum, kept);
            const std::int64_t column = targets[n] - first;
            if (column >= 0 && column < columns.used) logit = static_cast<float>(row[column]);
        }
        to.maxima[n] = found.maximum;
        to.sums[n] = found.sum;
        to.logits[n] = logit;
    }
}

TESSERA_MULTIVERSION void combine_rows(const float* shards, std::int64_t count, std::int64_t rows, std::int64_t begin,
                                       std::int64_t end, const Planes<float>& to) {
    simd::for_columns(end - begin, [&](std::int64_t i, auto width) TESSERA_INLINED {
        Floats high = simd::all(lowest_logit), sum{}, logit{};
        for (std::int64_t s = 0; s < count; ++s)
            high = simd::max(high, simd::load(Planes(shards + s * 3 * rows, rows).maxima + begin + i, width));
        for (std::int64_t s = 0; s < count; ++s) {
            const Planes from(shards + s * 3 * rows, rows);
            const Floats maximum = simd::load(from.maxima + begin + i, width);
            sum += simd::load(from.sums + begin + i, width) * simd::exp(maximum - high);
            logit += simd::load(from.logits + begin + i, width);
        }
        simd::store(to.maxima + begin + i, high, width);
        simd::store(to.sums + begin + i, sum, width);
        simd::store(to.logits + begin + i, logit, width);
    });
}

TESSERA_MULTIVERSION void losses_of_rows(const Planes<const float>& from, const std::int32_t* targets,
                                         std::int64_t classes, std::int64_t begin, std::int64_t end, float* losses) {
    simd::for_columns(end - begin, [&](std::int64_t i, auto width) TESSERA_INLINED {
        const Floats offset = simd::load(from.maxima + begin + i, width) - simd::load(from.logits + begin + i, width);
        simd::store(losses + begin + i, simd::log(simd::load(from.sums + begin + i, width)) + offset, width);
    });
    for (std::int64_t n = begin; n < end; ++n)
        if (targets[n] < 0 || targets[n] >= classes) losses[n] = 0;
}

// dlogits may be the logits' memory.
template <class T> TESSERA_MULTIVERSION void shard_gradient_rows(const T* logits, const std::int32_t* targets,
                                                                 VocabularyShard shard, Columns columns, float scale,
                                                                 const Planes<const float>& combined,
                                                                 std::int64_t begin, std::int64_t end, T* dlogits) {
    for (std::int64_t n = begin; n < end; ++n) {
        const T* row = logits + n * columns.all;
        T* to = dlogits + n * columns.all;
        if (targets[n] < 0 || targets[n] >= shard.classes) {
            std::fill_n(to, columns.all, T(0.0f));
            continue;
        }
        const std::int64_t column = targets[n] - shard.first;
        const bool here = column >= 0 && column < columns.used;
        const float maximum = combined.maxima[n], factor = scale / combined.sums[n];
        simd::for_columns(columns.used, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(to + c, simd::exp(simd::load(row + c, width) - maximum) * factor, width);
        });
        std::fill(to + columns.used, to + columns.all, T(0.0f));
        if (here) to[column] = T(simd::exp(simd::all(combined.logits[n] - maximum))[0] * factor - scale);
    }
}

Columns columns_of(std::string_view kernel, const ConstView& logits, const ConstView& targets,
                   const VocabularyShard& shard) {
    const std::int64_t rows = targets.count();
    const std::int64_t columns = rows == 0 ? 0 : logits.count() / rows;
    check_count(kernel, "logits", logits, rows * columns);
    return {columns, classes_in(kernel, shard, columns)};
}

} // namespace

void cross_entropy_shard_statistics(CpuStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                    View statistics) {
    constexpr std::string_view kernel = "cross_entropy_shard_statistics";
    const Columns columns = columns_of(kernel, logits, targets, shard);
    check_count(kernel, "statistics", statistics, 3 * targets.count());
    check_classes("target", targets, shard.classes, ignore_index);
    const Planes<float> to(statistics.as<float>(), targets.count());
    with_float_type(kernel, logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            shard_statistics_rows(logits.as<T>(), targets.as<std::int32_t>(), shard.first, columns, begin, end, to);
        };
        stream.parallel(targets.count(), rows_per_thread(columns.all, elements_per_thread), std::ref(work));
    });
}

void combine_cross_entropy_shards(CpuStream& stream, ConstView shards, View combined) {
    constexpr std::string_view kernel = "combine_cross_entropy_shards";
    const std::int64_t rows = combined.count() / 3;
    const std::int64_t count = rows == 0 ? 0 : shards.count() / (3 * rows);
    check_count(kernel, "combined", combined, 3 * rows);
    check_count(kernel, "shards", shards, 3 * rows * count);
    const Planes<float> to(combined.as<float>(), rows);
    const auto work = [&](std::int64_t begin, std::int64_t end) { // in units of vectors
        combine_rows(shards.as<float>(), count, rows, begin * simd::lanes, std::min(end * simd::lanes, rows), to);
    };
    stream.parallel((rows + simd::lanes - 1) / simd::lanes,
                    rows_per_thread(3 * count * simd::lanes, elements_per_thread), std::ref(work));
}

void cross_entropy_shard_gradient(CpuStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                  ConstView scale, ConstView combined, View losses, View dlogits) {
    constexpr std::string_view kernel = "cross_entropy_shard_gradient";
    const std::int64_t rows = targets.count();
    const Columns columns = columns_of(kernel, logits, targets, shard);
    check_count(kernel, "the combined statistics", combined, 3 * rows);
    check_count(kernel, "losses", losses, rows);
    const auto* classes = targets.as<std::int32_t>();
    const Planes<const float> from(combined.as<float>(), rows);
    const auto write_losses = [&](std::int64_t begin, std::int64_t end) { // in units of vectors
        losses_of_rows(from, classes, shard.classes, begin * simd::lanes, std::min(end * simd::lanes, rows),
                       losses.as<float>());
    };
    stream.parallel((rows + simd::lanes - 1) / simd::lanes, elements_per_thread / simd::lanes, std::ref(write_losses));
    if (!dlogits) return;
    check_count(kernel, "dlogits", dlogits, logits.count());
    check_count(kernel, "scale", scale, 1);
    const float factor = *scale.as<float>();
    with_float_type(kernel, logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            shard_gradient_rows(logits.as<T>(), classes, shard, columns, factor, from, begin, end, dlogits.as<T>());
        };
        stream.parallel(rows, rows_per_thread(columns.all, elements_per_thread), std::ref(work));
    });
}

} // namespace tessera::kernels
