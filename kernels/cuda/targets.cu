// SPDX-License-Identifier: Apache-2.0
// Targets that count on the GPU: a thread for each.
#include "kernels/targets.hpp"

#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;

// y may be the targets' memory.
__global__ void __launch_bounds__(threads)
    leave_out_kernel(std::int32_t left_out, const std::int32_t* targets, std::int64_t count, std::int32_t* y) {
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (n >= count) return;
    const std::int32_t target = targets[n];
    y[n] = target == left_out ? ignore_index : target;
}

// class_weights may be null.
__global__ void __launch_bounds__(threads)
    target_weights_kernel(const std::int32_t* __restrict__ targets, const float* __restrict__ class_weights,
                          std::int64_t classes, std::int64_t count, float* __restrict__ weights) {
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (n >= count) return;
    const std::int32_t target = targets[n];
    float weight = target == ignore_index ? 0.0f : 1.0f;
    if (class_weights != nullptr) weight = target >= 0 && target < classes ? class_weights[target] : 0.0f;
    weights[n] = weight;
}

__global__ void mean_over_counted_kernel(float units, const float* counted, const float* loss, const float* square_sum,
                                         float* ratio, float* mean_loss, float* true_square_sum) {
    const float factor = *counted > 0 ? units / *counted : 0.0f;
    *ratio = factor;
    *mean_loss = *loss * factor;
    *true_square_sum = *square_sum * factor * factor;
}

__global__ void multiply_scalars_kernel(const float* a, const float* b, float* product) { *product = *a * *b; }

} // namespace

void leave_out(CudaStream& stream, std::int32_t left_out, ConstView targets, View y) {
    check_count("leave_out", "y", y, targets.count());
    cuda::launch("leave_out", stream, leave_out_kernel, cuda::blocks(targets.count(), threads), threads, 0, left_out,
                 cuda::pointer<std::int32_t>(targets), targets.count(), cuda::pointer<std::int32_t>(y));
}

void target_weights(CudaStream& stream, ConstView targets, ConstView class_weights, View weights) {
    check_count("target_weights", "weights", weights, targets.count());
    cuda::launch("target_weights", stream, target_weights_kernel, cuda::blocks(targets.count(), threads), threads, 0,
                 cuda::pointer<std::int32_t>(targets), cuda::pointer<float>(class_weights),
                 class_weights ? class_weights.count() : 0, targets.count(), cuda::pointer<float>(weights));
}

void mean_over_counted(CudaStream& stream, float units, const CountedMean& of) {
    for (const ConstView& one : {of.counted, of.loss, of.square_sum, ConstView(of.ratio), ConstView(of.mean_loss),
                                 ConstView(of.true_square_sum)})
        check_count("mean_over_counted", "a scalar", one, 1);
    cuda::launch("mean_over_counted", stream, mean_over_counted_kernel, 1, 1, 0, units,
                 cuda::pointer<float>(of.counted), cuda::pointer<float>(of.loss), cuda::pointer<float>(of.square_sum),
                 cuda::pointer<float>(of.ratio), cuda::pointer<float>(of.mean_loss),
                 cuda::pointer<float>(of.true_square_sum));
}

void multiply_scalars(CudaStream& stream, ConstView a, ConstView b, View product) {
    for (const ConstView& one : {a, b, ConstView(product)})
        check_count("multiply_scalars", "a scalar", one, 1);
    cuda::launch("multiply_scalars", stream, multiply_scalars_kernel, 1, 1, 0, cuda::pointer<float>(a),
                 cuda::pointer<float>(b), cuda::pointer<float>(product));
}

} // namespace tessera::kernels
