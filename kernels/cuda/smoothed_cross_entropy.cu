// SPDX-License-Identifier: Apache-2.0
// The smoothed and weighted cross entropy on the GPU: a warp takes a row, its lanes every 32nd logit.
#include "kernels/smoothed_cross_entropy.hpp"

#include "kernels/cuda/launch.cuh"

#include <limits>

namespace tessera::kernels {
namespace {

constexpr int warps = 4; // of a block
constexpr float lowest = std::numeric_limits<float>::lowest();

// class_weights may be null: ones. dlogits may be null: losses alone; or the logits' memory.
template <class T> __global__ void __launch_bounds__(32 * warps)
    smoothed_cross_entropy_kernel(const T* logits, const std::int32_t* __restrict__ targets,
                                  const float* __restrict__ class_weights, const float* __restrict__ scale,
                                  float smoothing, std::int64_t rows, std::int64_t columns, std::int64_t classes,
                                  float* __restrict__ losses, T* dlogits, cuda::Fault* fault) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    if (r >= rows) return;
    const T* row = logits + r * columns;
    T* gradient = dlogits == nullptr ? nullptr : dlogits + r * columns;
    const std::int32_t target = targets[r];
    if (target < 0 || target >= classes) {
        if (target != ignore_index && lane == 0) cuda::report(fault, cuda::Fault::target, target, r, classes);
        if (lane == 0) losses[r] = 0;
        for (std::int64_t c = lane; gradient != nullptr && c < columns; c += 32)
            gradient[c] = cuda::from_float<T>(0);
        return;
    }
    float maximum = lowest;
    for (std::int64_t c = lane; c < classes; c += 32)
        maximum = fmaxf(maximum, cuda::to_float(row[c]));
    maximum = cuda::warp_max(maximum);
    const float share = smoothing / static_cast<float>(classes);
    float powers = 0, below = 0, weights = 0;
    for (std::int64_t c = lane; c < classes; c += 32) {
        const float logit = cuda::to_float(row[c]), weight = class_weights == nullptr ? 1.0f : class_weights[c];
        powers += expf(logit - maximum);
        if (smoothing > 0) below += weight * (maximum - logit);
        weights += weight;
    }
    powers = cuda::warp_sum(powers);
    below = cuda::warp_sum(below) * share;
    const float own = (1 - smoothing) * (class_weights == nullptr ? 1.0f : class_weights[target]);
    const float all = own + cuda::warp_sum(weights) * share;
    const float logit = cuda::to_float(row[target]); // before the gradient overwrites it
    if (lane == 0) losses[r] = all * logf(powers) + own * (maximum - logit) + below;
    if (gradient == nullptr) return;
    __syncwarp(); // all lanes have read the target's logit
    const float factor = *scale * all / powers;
    for (std::int64_t c = lane; c < columns; c += 32) {
        float value = 0;
        if (c < classes) {
            const float q = share * (class_weights == nullptr ? 1.0f : class_weights[c]) + (c == target ? own : 0.0f);
            value = expf(cuda::to_float(row[c]) - maximum) * factor - q * *scale;
        }
        gradient[c] = cuda::from_float<T>(value);
    }
}

void run(CudaStream& stream, const char* kernel, std::int64_t classes, float smoothing, ConstView logits,
         ConstView targets, ConstView class_weights, ConstView scale, View losses, View dlogits) {
    const std::int64_t rows = targets.count();
    const std::int64_t columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes(kernel, classes, columns);
    check_count(kernel, "logits", logits, rows * columns);
    check_count(kernel, "losses", losses, rows);
    if (class_weights) check_count(kernel, "class_weights", class_weights, classes);
    if (dlogits) check_count(kernel, "dlogits", dlogits, logits.count());
    cuda::with_float_type(kernel, logits.dtype, [&]<class T>() {
        cuda::launch(kernel, stream, smoothed_cross_entropy_kernel<T>, cuda::blocks(rows, warps), 32 * warps, 0,
                     cuda::pointer<T>(logits), cuda::pointer<std::int32_t>(targets),
                     cuda::pointer<float>(class_weights), cuda::pointer<float>(scale), smoothing, rows, columns,
                     classes, cuda::pointer<float>(losses), cuda::pointer<T>(dlogits), stream.state().fault);
    });
}

} // namespace

void smoothed_cross_entropy(CudaStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                            ConstView targets, ConstView class_weights, View losses) {
    run(stream, "smoothed_cross_entropy", classes, smoothing, logits, targets, class_weights, {}, losses, {});
}

void smoothed_cross_entropy_with_gradient(CudaStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                          ConstView targets, ConstView class_weights, ConstView scale, View losses,
                                          View dlogits) {
    check_count("smoothed_cross_entropy_with_gradient", "scale", scale, 1);
    run(stream, "smoothed_cross_entropy_with_gradient", classes, smoothing, logits, targets, class_weights, scale,
        losses, dlogits);
}

} // namespace tessera::kernels
