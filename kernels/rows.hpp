// SPDX-License-Identifier: Apache-2.0
// Rows that lie apart, copied or added up.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// Rows r < `rows` of each b < `batch`, of `columns` elements.
struct Rows {
    std::int64_t batch, rows, columns;
};

// Where they lie: row (b, r) begins first + b * batch_step + r * row_step elements behind a view's first one.
struct RowPlaces {
    std::int64_t first, row_step, batch_step;
};

// y[b,r,:] = x[b,r,:] in y's type, rounded to nearest even. Each f32, bf16 or f16. Of the views only memory and dtype
// count; what is read and written does not overlap.
void copy_rows(CpuStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y, const RowPlaces& to);
void copy_rows(CudaStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y, const RowPlaces& to);

// y[b,r,:] += x[b,r,:], y in f32.
void accumulate_rows(CpuStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y,
                     const RowPlaces& to);
void accumulate_rows(CudaStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y,
                     const RowPlaces& to);

} // namespace tessera::kernels
