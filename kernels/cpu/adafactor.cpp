// SPDX-License-Identifier: Apache-2.0
// Adafactor on the CPU, by plain loops; a thread has whole rows or whole columns.
#include "kernels/adafactor_check.hpp"

#include "kernels/cpu/loops.hpp"

#include <cmath>
#include <cstring>

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 32768;
constexpr double least_square = 1e-30;

AdafactorPace read_pace(ConstView pace) {
    AdafactorPace now{};
    std::memcpy(&now, pace.as<float>(), sizeof now);
    return now;
}

} // namespace

void adafactor_squares(CpuStream& stream, const AdafactorMatrix& of, ConstView pace, ConstView factor,
                       ConstView gradient, const AdafactorSquares& squares) {
    check("adafactor_squares", of, factor, gradient, squares);
    check_count("adafactor_squares", "pace", pace, adafactor_pace_count);
    const double by = *factor.as<float>(), share = read_pace(pace).share;
    const auto* g = gradient.as<float>();
    auto *rows = squares.rows.as<float>(), *columns = squares.columns.as<float>();
    const auto of_rows = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            double sum = 0;
            for (std::int64_t c = 0; c < of.columns; ++c)
                sum += by * g[r * of.columns + c] * by * g[r * of.columns + c];
            const double mean = sum / static_cast<double>(of.columns) + least_square;
            rows[r] = static_cast<float>(rows[r] + share * (mean - rows[r]));
        }
    };
    const auto of_columns = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t c = begin; c < end; ++c) {
            double sum = 0;
            for (std::int64_t r = 0; r < of.counted; ++r)
                sum += by * g[r * of.columns + c] * by * g[r * of.columns + c];
            const double mean = sum / static_cast<double>(of.counted) + least_square;
            columns[c] = static_cast<float>(columns[c] + share * (mean - columns[c]));
        }
    };
    if (by != 0) {
        stream.parallel(of.counted, rows_per_thread(of.columns, elements_per_thread), std::ref(of_rows));
        stream.parallel(of.columns, rows_per_thread(of.counted, elements_per_thread), std::ref(of_columns));
    }
    double sum = 0;
    for (std::int64_t r = 0; r < of.counted; ++r)
        sum += rows[r];
    *squares.mean.as<float>() = static_cast<float>(sum / static_cast<double>(of.counted));
}

void adafactor_direction(CpuStream& stream, const AdafactorMatrix& of, ConstView factor, ConstView gradient,
                         const AdafactorSquares& squares, View direction) {
    check("adafactor_direction", of, factor, gradient, squares);
    check_count("adafactor_direction", "direction", direction, gradient.count());
    const float by = *factor.as<float>(), mean = *squares.mean.as<float>();
    const auto *g = gradient.as<float>(), *columns = squares.columns.as<float>();
    auto* d = direction.as<float>();
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            const bool counts = by != 0 && r < of.counted;
            const float root = counts ? by / std::sqrt(squares.rows.as<float>()[r] / mean) : 0;
            for (std::int64_t c = 0; c < of.columns; ++c)
                d[r * of.columns + c] = counts ? g[r * of.columns + c] * root / std::sqrt(columns[c]) : 0;
        }
    };
    stream.parallel(of.rows, rows_per_thread(of.columns, elements_per_thread), std::ref(work));
}

void adafactor_step(CpuStream& stream, const AdafactorStep& settings, ConstView pace, ConstView factor,
                    ConstView weight_squares, ConstView direction_squares, ConstView direction, View weight) {
    for (const ConstView& one : {factor, weight_squares, direction_squares})
        check_count("adafactor_step", "a scalar", one, 1);
    check_count("adafactor_step", "pace", pace, adafactor_pace_count);
    check_count("adafactor_step", "direction", direction, weight.count());
    if (*factor.as<float>() == 0) return;
    const float size = std::max(1e-3f, std::sqrt(*weight_squares.as<float>() / settings.elements));
    const float beyond = std::sqrt(*direction_squares.as<float>() / settings.elements) / settings.threshold;
    const float rate = read_pace(pace).learning_rate, along = rate * (size / std::max(1.0f, beyond));
    const auto* d = direction.as<float>();
    auto* w = weight.as<float>();
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            w[i] -= along * d[i] + rate * settings.weight_decay * w[i];
    };
    stream.parallel(weight.count(), elements_per_thread, std::ref(work));
}

} // namespace tessera::kernels
