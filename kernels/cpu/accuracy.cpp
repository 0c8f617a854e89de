// SPDX-License-Identifier: Apache-2.0
// The place of the largest logit on the CPU, by a plain loop: it runs in evaluations only.
#include "kernels/accuracy.hpp"

#include "kernels/cpu/loops.hpp"

#include <limits>

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 16384;

template <class T> std::int64_t place_of_largest(const T* logits, std::int64_t columns) {
    float largest = -std::numeric_limits<float>::infinity();
    std::int64_t place = 0;
    for (std::int64_t c = 0; c < columns; ++c)
        if (const auto logit = static_cast<float>(logits[c]); logit > largest) {
            largest = logit;
            place = c;
        }
    return place;
}

} // namespace

void accuracy(CpuStream& stream, ConstView logits, ConstView targets, View hits) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? 0 : logits.count() / rows;
    check_count("accuracy", "logits", logits, rows * columns);
    check_count("accuracy", "hits", hits, rows);
    with_float_type("accuracy", logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                const std::int64_t place = place_of_largest(logits.as<T>() + row * columns, columns);
                hits.as<float>()[row] = place == targets.as<std::int32_t>()[row] ? 1.0f : 0.0f;
            }
        };
        stream.parallel(rows, rows_per_thread(columns, elements_per_thread), std::ref(work));
    });
}

} // namespace tessera::kernels
