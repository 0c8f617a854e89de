// SPDX-License-Identifier: Apache-2.0
// Squared errors on the CPU, row after row, sixteen numbers at a time.
#include "kernels/squared_error.hpp"

#include "kernels/cpu/loops.hpp"

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 65536;

// dy may be null: losses alone.
template <class T> TESSERA_MULTIVERSION void squared_error_rows(const T* y, const float* targets, float share,
                                                                float slope, std::int64_t columns, std::int64_t begin,
                                                                std::int64_t end, float* losses, T* dy) {
    for (std::int64_t row = begin; row < end; ++row) {
        const T* of_row = y + row * columns;
        const float* wanted = targets + row * columns;
        simd::Floats sum{};
        simd::for_columns(columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
            const simd::Floats error = simd::load(of_row + c, width) - simd::load(wanted + c, width);
            sum += error * error;
            if (dy != nullptr) simd::store(dy + row * columns + c, error * slope, width);
        });
        losses[row] = simd::sum(sum) * share;
    }
}

void run(CpuStream& stream, std::string_view kernel, std::int64_t count, ConstView y, ConstView targets, float scale,
         View losses, View dy) {
    const std::int64_t rows = losses.count(), columns = rows == 0 ? 0 : y.count() / rows;
    check_count(kernel, "y", y, rows * columns);
    check_count(kernel, "targets", targets, y.count());
    if (dy) check_count(kernel, "dy", dy, y.count());
    const float share = 1.0f / static_cast<float>(count);
    with_float_type(kernel, y.dtype, [&]<class T>() {
        T* gradient = dy ? dy.as<T>() : nullptr;
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            squared_error_rows(y.as<T>(), targets.as<float>(), share, 2 * share * scale, columns, begin, end,
                               losses.as<float>(), gradient);
        };
        stream.parallel(rows, rows_per_thread(columns, elements_per_thread), std::ref(work));
    });
}

} // namespace

void squared_error(CpuStream& stream, std::int64_t count, ConstView y, ConstView targets, View losses) {
    run(stream, "squared_error", count, y, targets, 0, losses, {});
}

void squared_error_with_gradient(CpuStream& stream, std::int64_t count, ConstView y, ConstView targets, ConstView scale,
                                 View losses, View dy) {
    check_count("squared_error_with_gradient", "scale", scale, 1);
    run(stream, "squared_error_with_gradient", count, y, targets, *scale.as<float>(), losses, dy);
}

} // namespace tessera::kernels
