// SPDX-License-Identifier: Apache-2.0
// Pointwise losses on the GPU: a warp takes a row, its lanes every 32nd number.
#include "kernels/pointwise_loss.hpp"

#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int warps = 4; // of a block

struct ValueAndSlope {
    float value, slope;
};

template <PointwiseLoss::Kind kind>
__device__ __forceinline__ ValueAndSlope loss_of(const PointwiseLoss& loss, float y, float t) {
    const float error = y - t, size = fabsf(error);
    if constexpr (kind == PointwiseLoss::Kind::squared) return {error * error, 2 * error};
    if constexpr (kind == PointwiseLoss::Kind::absolute)
        return {size, error > 0 ? 1.0f : error < 0 ? -1.0f : error}; // NaN stays itself
    if constexpr (kind == PointwiseLoss::Kind::huber) {
        if (size > loss.delta) return {(size - 0.5f * loss.delta) * loss.delta, copysignf(loss.delta, error)};
        return {0.5f * error * error, error};
    }
    const float power = expf(-fabsf(y)), weight = t * (loss.positive_weight - 1) + 1;
    const float softplus = log1pf(power) + fmaxf(-y, 0.0f), complement = (y >= 0 ? power : 1.0f) / (power + 1);
    return {(1 - t) * y + weight * softplus, (1 - t) - weight * complement};
}

// dy may be null: losses alone. y and dy may be the same memory.
template <class T, PointwiseLoss::Kind kind> __global__ void __launch_bounds__(32 * warps)
    pointwise_loss_kernel(PointwiseLoss loss, const T* y, const float* __restrict__ targets,
                          const float* __restrict__ scale, std::int64_t rows, std::int64_t columns, float share,
                          float* __restrict__ losses, T* dy) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    if (row >= rows) return;
    const float factor = dy == nullptr ? 0.0f : share * *scale;
    float sum = 0;
    for (std::int64_t c = lane; c < columns; c += 32) {
        const ValueAndSlope found =
            loss_of<kind>(loss, cuda::to_float(y[row * columns + c]), targets[row * columns + c]);
        sum += found.value;
        if (dy != nullptr) dy[row * columns + c] = cuda::from_float<T>(found.slope * factor);
    }
    sum = cuda::warp_sum(sum);
    if (lane == 0) losses[row] = sum * share;
}

template <class Work> void with_kind(PointwiseLoss::Kind kind, const Work& work) {
    using Kind = PointwiseLoss::Kind;
    switch (kind) {
    case Kind::squared:
        return work.template operator()<Kind::squared>();
    case Kind::absolute:
        return work.template operator()<Kind::absolute>();
    case Kind::huber:
        return work.template operator()<Kind::huber>();
    case Kind::binary:
        return work.template operator()<Kind::binary>();
    }
}

void run(CudaStream& stream, const char* kernel, const PointwiseLoss& loss, std::int64_t count, ConstView y,
         ConstView targets, ConstView scale, View losses, View dy) {
    const std::int64_t rows = losses.count(), columns = rows == 0 ? 0 : y.count() / rows;
    check_count(kernel, "y", y, rows * columns);
    check_count(kernel, "targets", targets, y.count());
    if (dy) check_count(kernel, "dy", dy, y.count());
    const float share = 1.0f / static_cast<float>(count);
    cuda::with_float_type(kernel, y.dtype, [&]<class T>() {
        with_kind(loss.kind, [&]<PointwiseLoss::Kind kind>() {
            cuda::launch(kernel, stream, pointwise_loss_kernel<T, kind>, cuda::blocks(rows, warps), 32 * warps, 0, loss,
                         cuda::pointer<T>(y), cuda::pointer<float>(targets), cuda::pointer<float>(scale), rows, columns,
                         share, cuda::pointer<float>(losses), cuda::pointer<T>(dy));
        });
    });
}

} // namespace

void pointwise_loss(CudaStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y, ConstView targets,
                    View losses) {
    run(stream, "pointwise_loss", loss, count, y, targets, {}, losses, {});
}

void pointwise_loss_with_gradient(CudaStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y,
                                  ConstView targets, ConstView scale, View losses, View dy) {
    check_count("pointwise_loss_with_gradient", "scale", scale, 1);
    run(stream, "pointwise_loss_with_gradient", loss, count, y, targets, scale, losses, dy);
}

} // namespace tessera::kernels
