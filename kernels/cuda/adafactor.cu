// SPDX-License-Identifier: Apache-2.0
// Adafactor on the GPU: a warp has a row, a thread a column.
#include "kernels/adafactor_check.hpp"

#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 128;
constexpr int warps = threads / 32;
constexpr float least_square = 1e-30f;

__device__ __forceinline__ std::int64_t index_of_thread() {
    return static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
}

__global__ void __launch_bounds__(threads)
    row_squares_kernel(const AdafactorPace* __restrict__ pace, const float* __restrict__ factor,
                       const float* __restrict__ gradient, AdafactorMatrix of, float* __restrict__ rows) {
    const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    if (r >= of.counted || *factor == 0) return;
    float sum = 0;
    for (std::int64_t c = static_cast<int>(threadIdx.x) % 32; c < of.columns; c += 32) {
        const float g = __fmul_rn(*factor, gradient[r * of.columns + c]);
        sum = fmaf(g, g, sum);
    }
    const float mean = cuda::warp_sum(sum) / static_cast<float>(of.columns) + least_square;
    if (threadIdx.x % 32 == 0) rows[r] = fmaf(pace->share, mean - rows[r], rows[r]);
}

__global__ void __launch_bounds__(threads)
    column_squares_kernel(const AdafactorPace* __restrict__ pace, const float* __restrict__ factor,
                          const float* __restrict__ gradient, AdafactorMatrix of, float* __restrict__ columns) {
    const std::int64_t c = index_of_thread();
    if (c >= of.columns || *factor == 0) return;
    double sum = 0; // over many rows
    for (std::int64_t r = 0; r < of.counted; ++r) {
        const float g = __fmul_rn(*factor, gradient[r * of.columns + c]);
        sum += static_cast<double>(g) * g;
    }
    const float mean = static_cast<float>(sum / static_cast<double>(of.counted)) + least_square;
    columns[c] = fmaf(pace->share, mean - columns[c], columns[c]);
}

__global__ void __launch_bounds__(threads)
    mean_kernel(const float* __restrict__ rows, std::int64_t counted, float* __restrict__ mean) {
    float sum = 0;
    for (std::int64_t r = threadIdx.x; r < counted; r += threads)
        sum += rows[r];
    sum = cuda::block_sum(sum);
    if (threadIdx.x == 0) *mean = sum / static_cast<float>(counted);
}

__global__ void __launch_bounds__(threads)
    direction_kernel(const float* __restrict__ factor, const float* __restrict__ gradient, AdafactorMatrix of,
                     const float* __restrict__ rows, const float* __restrict__ columns, const float* __restrict__ mean,
                     float* __restrict__ direction) {
    const std::int64_t i = index_of_thread();
    if (i >= of.rows * of.columns) return;
    const std::int64_t r = i / of.columns;
    const bool counts = *factor != 0 && r < of.counted;
    direction[i] = counts ? *factor * gradient[i] / sqrtf(rows[r] / *mean) / sqrtf(columns[i % of.columns]) : 0.0f;
}

__global__ void __launch_bounds__(threads)
    step_kernel(AdafactorStep settings, const AdafactorPace* __restrict__ pace, const float* __restrict__ factor,
                const float* __restrict__ weight_squares, const float* __restrict__ direction_squares,
                const float* __restrict__ direction, std::int64_t count, float* __restrict__ weight) {
    const std::int64_t i = index_of_thread();
    if (i >= count || *factor == 0) return;
    const float size = fmaxf(1e-3f, sqrtf(*weight_squares / settings.elements));
    const float beyond = sqrtf(*direction_squares / settings.elements) / settings.threshold;
    const float rate = pace->learning_rate, along = rate * (size / fmaxf(1.0f, beyond));
    weight[i] -= fmaf(along, direction[i], rate * settings.weight_decay * weight[i]);
}

const AdafactorPace* pace_of(ConstView pace) {
    return reinterpret_cast<const AdafactorPace*>(cuda::pointer<float>(pace));
}

} // namespace

void adafactor_squares(CudaStream& stream, const AdafactorMatrix& of, ConstView pace, ConstView factor,
                       ConstView gradient, const AdafactorSquares& squares) {
    check("adafactor_squares", of, factor, gradient, squares);
    check_count("adafactor_squares", "pace", pace, adafactor_pace_count);
    cuda::launch("adafactor_rows", stream, row_squares_kernel, cuda::blocks(of.counted, warps), threads, 0,
                 pace_of(pace), cuda::pointer<float>(factor), cuda::pointer<float>(gradient), of,
                 cuda::pointer<float>(squares.rows));
    cuda::launch("adafactor_columns", stream, column_squares_kernel, cuda::blocks(of.columns, threads), threads, 0,
                 pace_of(pace), cuda::pointer<float>(factor), cuda::pointer<float>(gradient), of,
                 cuda::pointer<float>(squares.columns));
    cuda::launch("adafactor_mean", stream, mean_kernel, 1, threads, 0, cuda::pointer<float>(squares.rows), of.counted,
                 cuda::pointer<float>(squares.mean));
}

void adafactor_direction(CudaStream& stream, const AdafactorMatrix& of, ConstView factor, ConstView gradient,
                         const AdafactorSquares& squares, View direction) {
    check("adafactor_direction", of, factor, gradient, squares);
    check_count("adafactor_direction", "direction", direction, gradient.count());
    cuda::launch("adafactor_direction", stream, direction_kernel, cuda::blocks(gradient.count(), threads), threads, 0,
                 cuda::pointer<float>(factor), cuda::pointer<float>(gradient), of, cuda::pointer<float>(squares.rows),
                 cuda::pointer<float>(squares.columns), cuda::pointer<float>(squares.mean),
                 cuda::pointer<float>(direction));
}

void adafactor_step(CudaStream& stream, const AdafactorStep& settings, ConstView pace, ConstView factor,
                    ConstView weight_squares, ConstView direction_squares, ConstView direction, View weight) {
    for (const ConstView& one : {factor, weight_squares, direction_squares})
        check_count("adafactor_step", "a scalar", one, 1);
    check_count("adafactor_step", "pace", pace, adafactor_pace_count);
    check_count("adafactor_step", "direction", direction, weight.count());
    cuda::launch("adafactor_step", stream, step_kernel, cuda::blocks(weight.count(), threads), threads, 0, settings,
                 pace_of(pace), cuda::pointer<float>(factor), cuda::pointer<float>(weight_squares),
                 cuda::pointer<float>(direction_squares), cuda::pointer<float>(direction), weight.count(),
                 cuda::pointer<float>(weight));
}

} // namespace tessera::kernels
