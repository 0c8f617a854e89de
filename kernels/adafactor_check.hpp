// SPDX-License-Identifier: Apache-2.0
// What Adafactor's kernels check on the host, for every kind of device.
#pragma once

#include "kernels/adafactor.hpp"
#include "kernels/check.hpp"

namespace tessera::kernels {

inline void check(std::string_view kernel, const AdafactorMatrix& of, ConstView factor, ConstView gradient,
                  const AdafactorSquares& squares) {
    check_count(kernel, "factor", factor, 1);
    check_count(kernel, "gradient", gradient, of.rows * of.columns);
    check_count(kernel, "rows", squares.rows, of.rows);
    check_count(kernel, "columns", squares.columns, of.columns);
    check_count(kernel, "mean", squares.mean, 1);
}

} // namespace tessera::kernels
