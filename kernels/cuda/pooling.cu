// SPDX-License-Identifier: Apache-2.0
// Pooling on the GPU: a thread makes one element, neighbours neighbouring channels. Gradients are gathered by those who
// receive them. Bound by memory; windows that overlap are read from the caches.
#include "kernels/cuda/launch.cuh"

#include "kernels/pooling.hpp"
#include "kernels/pooling_check.hpp"

namespace tessera::kernels {
namespace {

using Index = std::int64_t;

constexpr int threads = 256;

struct Pool {
    Index height, width, channels, out_height, out_width;
    WindowDim rows, columns;
    bool count_padding;
};

Pool pool_of(const Pooling& shape, bool count_padding = false) {
    return {shape.height,      shape.width,         shape.channels,     shape.out_height(),
            shape.out_width(), shape.window.height, shape.window.width, count_padding};
}

struct Element { // of images with so many rows and columns
    Index image, row, column, channel;
};

__device__ __forceinline__ Element element_at(Index i, Index rows, Index columns, Index channels) {
    const Index pixel = i / channels;
    return {pixel / columns / rows, pixel / columns % rows, pixel % columns, i % channels};
}

// The input that an output's tap looks at; -1 outside the image.
__device__ __forceinline__ Index input_of(const WindowDim& dim, Index length, Index output, Index tap) {
    const Index place = output * dim.stride - dim.before + tap * dim.dilation;
    return place < length && place >= 0 ? place : -1;
}

// The output that looks at an input with this tap; -1: none does.
__device__ __forceinline__ Index output_of(const WindowDim& dim, Index outputs, Index input, Index tap) {
    const Index first = input + dim.before - tap * dim.dilation;
    return first < 0 || first % dim.stride != 0 || first / dim.stride >= outputs ? -1 : first / dim.stride;
}

__device__ __forceinline__ Index inside(const WindowDim& dim, Index length, Index output) {
    Index count = 0;
    for (Index tap = 0; tap < dim.size; ++tap)
        count += input_of(dim, length, output, tap) >= 0;
    return count;
}

// What the sum over an output's window is multiplied by.
__device__ __forceinline__ float share_of(const Pool& pool, Index p, Index q) {
    const Index count = pool.count_padding ? pool.rows.size * pool.columns.size
                                           : inside(pool.rows, pool.height, p) * inside(pool.columns, pool.width, q);
    return count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
}

// taps null: the mean
template <class T> __global__ void __launch_bounds__(threads)
    pool_kernel(Pool pool, const T* __restrict__ x, T* __restrict__ y, std::int32_t* taps, Index outputs) {
    const Index i = static_cast<Index>(blockIdx.x) * threads + threadIdx.x;
    if (i >= outputs) return;
    const Element at = element_at(i, pool.out_height, pool.out_width, pool.channels);
    float best = 0, sum = 0;
    std::int32_t found = -1;
    for (Index r = 0; r < pool.rows.size; ++r) {
        const Index row = input_of(pool.rows, pool.height, at.row, r);
        if (row < 0) continue;
        for (Index s = 0; s < pool.columns.size; ++s) {
            const Index column = input_of(pool.columns, pool.width, at.column, s);
            if (column < 0) continue;
            const float value =
                cuda::to_float(x[((at.image * pool.height + row) * pool.width + column) * pool.channels + at.channel]);
            sum += value;
            if (found >= 0 && !(value > best) && value == value) continue;
            best = value;
            found = static_cast<std::int32_t>(r * pool.columns.size + s);
        }
    }
    if (taps == nullptr) {
        y[i] = cuda::from_float<T>(sum * share_of(pool, at.row, at.column));
        return;
    }
    y[i] = cuda::from_float<T>(found < 0 ? -INFINITY : best);
    taps[i] = found;
}

template <class T> __global__ void __launch_bounds__(threads)
    gradient_kernel(Pool pool, const T* __restrict__ dy, const std::int32_t* __restrict__ taps, T* __restrict__ dx,
                    Index inputs) {
    const Index i = static_cast<Index>(blockIdx.x) * threads + threadIdx.x;
    if (i >= inputs) return;
    const Element at = element_at(i, pool.height, pool.width, pool.channels);
    float sum = 0;
    for (Index r = 0; r < pool.rows.size; ++r) {
        const Index p = output_of(pool.rows, pool.out_height, at.row, r);
        if (p < 0) continue;
        for (Index s = 0; s < pool.columns.size; ++s) {
            const Index q = output_of(pool.columns, pool.out_width, at.column, s);
            if (q < 0) continue;
            const Index from = ((at.image * pool.out_height + p) * pool.out_width + q) * pool.channels + at.channel;
            if (taps == nullptr)
                sum += cuda::to_float(dy[from]) * share_of(pool, p, q);
            else if (taps[from] == r * pool.columns.size + s)
                sum += cuda::to_float(dy[from]);
        }
    }
    dx[i] = cuda::from_float<T>(sum);
}

void forward(const char* kernel, CudaStream& stream, const Pool& pool, const ConstView& x, const View& y,
             std::int32_t* taps) {
    cuda::with_float_type(kernel, x.dtype, [&]<class T>() {
        cuda::launch(kernel, stream, pool_kernel<T>, cuda::blocks(y.count(), threads), threads, 0, pool,
                     cuda::pointer<T>(x), cuda::pointer<T>(y), taps, y.count());
    });
}

void gradient(const char* kernel, CudaStream& stream, const Pool& pool, const ConstView& dy, const std::int32_t* taps,
              const View& dx) {
    cuda::with_float_type(kernel, dy.dtype, [&]<class T>() {
        cuda::launch(kernel, stream, gradient_kernel<T>, cuda::blocks(dx.count(), threads), threads, 0, pool,
                     cuda::pointer<T>(dy), taps, cuda::pointer<T>(dx), dx.count());
    });
}

} // namespace

void max_pool(CudaStream& stream, const Pooling& shape, ConstView x, View y, View taps) {
    check_pooling("max_pool", shape, x, y);
    check_count("max_pool", "the taps", taps, shape.outputs());
    forward("max_pool", stream, pool_of(shape), x, y, cuda::pointer<std::int32_t>(taps));
}

void max_pool_gradient(CudaStream& stream, const Pooling& shape, ConstView dy, ConstView taps, View dx) {
    check_pooling("max_pool_gradient", shape, dx, dy);
    check_count("max_pool_gradient", "the taps", taps, shape.outputs());
    gradient("max_pool_gradient", stream, pool_of(shape), dy, cuda::pointer<std::int32_t>(taps), dx);
}

void average_pool(CudaStream& stream, const Pooling& shape, bool count_padding, ConstView x, View y) {
    check_pooling("average_pool", shape, x, y);
    forward("average_pool", stream, pool_of(shape, count_padding), x, y, nullptr);
}

void average_pool_gradient(CudaStream& stream, const Pooling& shape, bool count_padding, ConstView dy, View dx) {
    check_pooling("average_pool_gradient", shape, dx, dy);
    gradient("average_pool_gradient", stream, pool_of(shape, count_padding), dy, nullptr, dx);
}

} // namespace tessera::kernels
