// SPDX-License-Identifier: Apache-2.0
// Sums over rows on the CPU, by a plain loop: it runs in evaluations only.
#include "kernels/regression.hpp"

#include "kernels/cpu/loops.hpp"

namespace tessera::kernels {

void regression_sums(CpuStream&, ConstView y, ConstView targets, ConstView centres, View sums) {
    const std::int64_t columns = sums.count() / 3, rows = columns == 0 ? 0 : targets.count() / columns;
    check_count("regression_sums", "y", y, rows * columns);
    check_count("regression_sums", "targets", targets, rows * columns);
    check_count("regression_sums", "centres", centres, columns);
    with_float_type("regression_sums", y.dtype, [&]<class T>() {
        for (std::int64_t k = 0; k < columns; ++k) {
            float sum = 0, squares = 0, errors = 0;
            for (std::int64_t at = k; at < rows * columns; at += columns) {
                const float t = targets.as<float>()[at], error = static_cast<float>(y.as<T>()[at]) - t;
                const float distance = t - centres.as<float>()[k];
                sum += distance;
                squares += distance * distance;
                errors += error * error;
            }
            sums.as<float>()[k] = sum;
            sums.as<float>()[columns + k] = squares;
            sums.as<float>()[2 * columns + k] = errors;
        }
    });
}

} // namespace tessera::kernels
