// SPDX-License-Identifier: Apache-2.0
// Sums over rows on the GPU: a thread takes a column.
#include "kernels/regression.hpp"

#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 128;

template <class T> __global__ void __launch_bounds__(threads)
    regression_sums_kernel(const T* __restrict__ y, const float* __restrict__ targets,
                           const float* __restrict__ centres, std::int64_t rows, std::int64_t columns,
                           float* __restrict__ sums) {
    const std::int64_t k = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= columns) return;
    float sum = 0, squares = 0, errors = 0;
    for (std::int64_t at = k; at < rows * columns; at += columns) {
        const float t = targets[at], error = cuda::to_float(y[at]) - t, distance = t - centres[k];
        sum += distance;
        squares += distance * distance;
        errors += error * error;
    }
    sums[k] = sum;
    sums[columns + k] = squares;
    sums[2 * columns + k] = errors;
}

} // namespace

void regression_sums(CudaStream& stream, ConstView y, ConstView targets, ConstView centres, View sums) {
    const std::int64_t columns = sums.count() / 3, rows = columns == 0 ? 0 : targets.count() / columns;
    check_count("regression_sums", "y", y, rows * columns);
    check_count("regression_sums", "targets", targets, rows * columns);
    check_count("regression_sums", "centres", centres, columns);
    cuda::with_float_type("regression_sums", y.dtype, [&]<class T>() {
        cuda::launch("regression_sums", stream, regression_sums_kernel<T>, cuda::blocks(columns, threads), threads, 0,
                     cuda::pointer<T>(y), cuda::pointer<float>(targets), cuda::pointer<float>(centres), rows, columns,
                     cuda::pointer<float>(sums));
    });
}

} // namespace tessera::kernels
