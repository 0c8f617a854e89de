// SPDX-License-Identifier: Apache-2.0
// Copies and sums of rows that lie apart, on the GPU: neighbouring threads take neighbouring elements of a row.
#include "kernels/cuda/launch.cuh"
#include "kernels/rows.hpp"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;

template <bool add, class From, class To> __global__ void __launch_bounds__(threads)
    rows_kernel(Rows rows, const From* __restrict__ x, RowPlaces from, To* __restrict__ y, RowPlaces to) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    const std::int64_t row = i / rows.columns, column = i % rows.columns;
    if (row >= rows.batch * rows.rows) return;
    const std::int64_t b = row / rows.rows, r = row % rows.rows;
    const float value = cuda::to_float(x[from.first + b * from.batch_step + r * from.row_step + column]);
    To* const target = y + to.first + b * to.batch_step + r * to.row_step + column;
    *target = cuda::from_float<To>(add ? cuda::to_float(*target) + value : value);
}

template <bool add, class From, class To> void run(CudaStream& stream, const Rows& rows, const ConstView& x,
                                                   const RowPlaces& from, const View& y, const RowPlaces& to) {
    const std::int64_t elements = rows.batch * rows.rows * rows.columns;
    cuda::launch(add ? "accumulate_rows" : "copy_rows", stream, rows_kernel<add, From, To>,
                 cuda::blocks(elements, threads), threads, 0, rows, cuda::pointer<From>(x), from, cuda::pointer<To>(y),
                 to);
}

} // namespace

void copy_rows(CudaStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y, const RowPlaces& to) {
    cuda::with_float_type("copy_rows", x.dtype, [&]<class From>() {
        cuda::with_float_type("copy_rows", y.dtype,
                              [&]<class To>() { run<false, From, To>(stream, rows, x, from, y, to); });
    });
}

void accumulate_rows(CudaStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y,
                     const RowPlaces& to) {
    cuda::with_float_type("accumulate_rows", x.dtype,
                          [&]<class From>() { run<true, From, float>(stream, rows, x, from, y, to); });
}

} // namespace tessera::kernels
