// SPDX-License-Identifier: Apache-2.0
// Squared errors on the GPU: a warp takes a row, its lanes every 32nd number.
#include "kernels/squared_error.hpp"

#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int warps = 4; // of a block

// dy may be null: losses alone. y and dy may be the same memory.
template <class T> __global__ void __launch_bounds__(32 * warps)
    squared_error_kernel(const T* y, const float* __restrict__ targets, const float* __restrict__ scale,
                         std::int64_t rows, std::int64_t columns, float share, float* __restrict__ losses, T* dy) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    if (row >= rows) return;
    const float slope = dy == nullptr ? 0.0f : 2 * share * *scale;
    float sum = 0;
    for (std::int64_t c = lane; c < columns; c += 32) {
        const float error = cuda::to_float(y[row * columns + c]) - targets[row * columns + c];
        sum += error * error;
        if (dy != nullptr) dy[row * columns + c] = cuda::from_float<T>(error * slope);
    }
    sum = cuda::warp_sum(sum);
    if (lane == 0) losses[row] = sum * share;
}

void run(CudaStream& stream, const char* kernel, std::int64_t count, ConstView y, ConstView targets, ConstView scale,
         View losses, View dy) {
    const std::int64_t rows = losses.count(), columns = rows == 0 ? 0 : y.count() / rows;
    check_count(kernel, "y", y, rows * columns);
    check_count(kernel, "targets", targets, y.count());
    if (dy) check_count(kernel, "dy", dy, y.count());
    const float share = 1.0f / static_cast<float>(count);
    cuda::with_float_type(kernel, y.dtype, [&]<class T>() {
        cuda::launch(kernel, stream, squared_error_kernel<T>, cuda::blocks(rows, warps), 32 * warps, 0,
                     cuda::pointer<T>(y), cuda::pointer<float>(targets), cuda::pointer<float>(scale), rows, columns,
                     share, cuda::pointer<float>(losses), cuda::pointer<T>(dy));
    });
}

} // namespace

void squared_error(CudaStream& stream, std::int64_t count, ConstView y, ConstView targets, View losses) {
    run(stream, "squared_error", count, y, targets, {}, losses, {});
}

void squared_error_with_gradient(CudaStream& stream, std::int64_t count, ConstView y, ConstView targets,
                                 ConstView scale, View losses, View dy) {
    check_count("squared_error_with_gradient", "scale", scale, 1);
    run(stream, "squared_error_with_gradient", count, y, targets, scale, losses, dy);
}

} // namespace tessera::kernels
