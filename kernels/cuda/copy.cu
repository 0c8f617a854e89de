// SPDX-License-Identifier: Apache-2.0
// Copies between element types and fills on the GPU: 16 bytes at a time where both ends are aligned to that.
#include "kernels/copy.hpp"
#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr int per_thread = 8; // elements: 16 bytes of bf16, 32 of f32

template <class From, class To, bool aligned> __global__ void __launch_bounds__(threads)
    cast_kernel(const From* __restrict__ x, To* __restrict__ y, std::int64_t count) {
    const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * per_thread;
    if (aligned && first + per_thread <= count) {
        From in[per_thread];
        To out[per_thread];
        for (int i = 0; i < per_thread; i += cuda::Vector<From>::count)
            *reinterpret_cast<cuda::Vector<From>*>(in + i) = cuda::load_vector(x + first + i);
        for (int i = 0; i < per_thread; ++i)
            out[i] = cuda::from_float<To>(cuda::to_float(in[i]));
        for (int i = 0; i < per_thread; i += cuda::Vector<To>::count)
            cuda::store_vector(y + first + i, *reinterpret_cast<const cuda::Vector<To>*>(out + i));
        return;
    }
    for (std::int64_t i = first; i < min(first + per_thread, count); ++i)
        y[i] = cuda::from_float<To>(cuda::to_float(x[i]));
}

template <class T> __global__ void __launch_bounds__(threads) fill_kernel(T* y, T value, std::int64_t count) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i < count) y[i] = value;
}

__global__ void __launch_bounds__(threads)
    replace_kernel(const float* factor, const float* x, float* y, std::int64_t count) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i < count && *factor != 0) y[i] = x[i];
}

bool is_aligned(const ConstView& view) { return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0; }

} // namespace

void cast(CudaStream& stream, ConstView x, View y) {
    check_count("cast", "the result", y, x.count());
    if (x.count() == 0) return;
    if (x.dtype == y.dtype) {
        cuda::check(cudaMemcpyAsync(y.memory(), x.data, static_cast<std::size_t>(x.bytes()), cudaMemcpyDeviceToDevice,
                                    stream.state().stream),
                    "cudaMemcpyAsync", x.bytes());
        return;
    }
    cuda::with_float_type("cast", x.dtype, [&]<class From>() {
        cuda::with_float_type("cast", y.dtype, [&]<class To>() {
            const auto kernel =
                is_aligned(x) && is_aligned(y) ? cast_kernel<From, To, true> : cast_kernel<From, To, false>;
            cuda::launch("cast", stream, kernel, cuda::blocks(x.count(), threads * per_thread), threads, 0,
                         cuda::pointer<From>(x), cuda::pointer<To>(y), x.count());
        });
    });
}

void replace(CudaStream& stream, ConstView factor, ConstView x, View y) {
    check_count("replace", "factor", factor, 1);
    check_count("replace", "the result", y, x.count());
    cuda::launch("replace", stream, replace_kernel, cuda::blocks(x.count(), threads), threads, 0,
                 cuda::pointer<float>(factor), cuda::pointer<float>(x), cuda::pointer<float>(y), x.count());
}

void copy_blocks(CudaStream& stream, const Blocks& blocks, ConstView from, View to) {
    if (blocks.bytes == 0 || blocks.count == 0) return;
    cuda::check(cudaMemcpy2DAsync(to.memory(), static_cast<std::size_t>(blocks.to_step), from.data,
                                  static_cast<std::size_t>(blocks.from_step), static_cast<std::size_t>(blocks.bytes),
                                  static_cast<std::size_t>(blocks.count), cudaMemcpyDeviceToDevice,
                                  stream.state().stream),
                "cudaMemcpy2DAsync", blocks.count * blocks.bytes);
}

void fill(CudaStream& stream, View y, float value) {
    cuda::with_float_type("fill", y.dtype, [&]<class T>() {
        cuda::launch("fill", stream, fill_kernel<T>, cuda::blocks(y.count(), threads), threads, 0, cuda::pointer<T>(y),
                     cuda::from_float<T>(value), y.count());
    });
}

} // namespace tessera::kernels
