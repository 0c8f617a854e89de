// SPDX-License-Identifier: Apache-2.0
// The one header that every .cu file includes first: launches, element types, 16-byte vectors, sums over a warp and a
// block. Kernels hold no <<<>>> and no PTX, so that they also compile for the emulation (tests/cuda_emulation).
#pragma once

#include "kernels/check.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <cuda_language.cuh>
#include <utility>

namespace tessera::cuda {

// Puts a kernel on the stream. `name` is for the error; arguments are converted to the kernel's parameter types.
// A grid of no blocks is no launch.
template <class... Parameters, class... Arguments> void launch(const char* name, CudaStream& stream,
                                                               void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                                               std::size_t shared_bytes, Arguments&&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    check(
        launch_kernel(kernel, grid, block, shared_bytes, stream.state().stream, std::forward<Arguments>(arguments)...),
        name);
}

// Lets a kernel have more than 48 KB of dynamic shared memory.
template <class... Parameters> void allow_shared_bytes(void (*kernel)(Parameters...), std::size_t bytes) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "cudaFuncSetAttribute");
}

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline unsigned blocks(std::int64_t items, std::int64_t items_per_block) {
    return static_cast<unsigned>(divide_up(items, items_per_block));
}

// The type that device code knows an element type by.
template <class T> struct ElementOf { using type = T; };
template <> struct ElementOf<__nv_bfloat16> { using type = BFloat16; };
template <> struct ElementOf<__half> { using type = Float16; };

// Calls work.template operator()<T>() with T = float, __nv_bfloat16 or __half.
template <class Work> void with_float_type(const char* kernel, DType dtype, const Work& work) {
    if (dtype == DType::f32)
        work.template operator()<float>();
    else if (dtype == DType::bf16)
        work.template operator()<__nv_bfloat16>();
    else if (dtype == DType::f16)
        work.template operator()<__half>();
    else
        kernels::refuse_dtype(kernel, dtype);
}

// The view's memory as device code knows it; the dtype is checked. Null stays null.
template <class T> const T* pointer(const ConstView& view) {
    return view.data == nullptr ? nullptr : reinterpret_cast<const T*>(view.as<typename ElementOf<T>::type>());
}
template <class T> T* pointer(const View& view) {
    return view.data == nullptr ? nullptr : reinterpret_cast<T*>(view.as<typename ElementOf<T>::type>());
}

__host__ __device__ __forceinline__ float to_float(float value) { return value; }
__host__ __device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__host__ __device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
template <class T> __host__ __device__ __forceinline__ T from_float(float value);
template <> __host__ __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __host__ __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}
template <> __host__ __device__ __forceinline__ __half from_float<__half>(float value) { return __float2half(value); }

// 16 bytes of elements: what one thread loads or stores at once.
template <class T> struct alignas(16) Vector {
    static constexpr int count = 16 / static_cast<int>(sizeof(T));
    T element[count];
};
template <class T> __device__ __forceinline__ Vector<T> load_vector(const T* from) {
    require_alignment(from, 16);
    return *reinterpret_cast<const Vector<T>*>(from);
}
template <class T> __device__ __forceinline__ void store_vector(T* to, const Vector<T>& value) {
    require_alignment(to, 16);
    *reinterpret_cast<Vector<T>*>(to) = value;
}

constexpr unsigned all_lanes = 0xffffffffu;

// The sum or the largest over a warp, in every lane; the order of the additions is fixed.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(all_lanes, value, distance);
    return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(all_lanes, value, distance));
    return value;
}

// Two sums over a block whose threads are a multiple of 32, in every thread.
__device__ inline float2 block_sums(float a, float b) {
    TESSERA_SHARED(float2, parts, [32]);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    a = warp_sum(a);
    b = warp_sum(b);
    __syncthreads(); // whoever still reads the parts of an earlier call
    if (lane == 0) parts[warp] = make_float2(a, b);
    __syncthreads();
    const float2 part = lane < warps ? parts[lane] : make_float2(0, 0);
    return make_float2(warp_sum(part.x), warp_sum(part.y));
}
__device__ inline float block_sum(float value) { return block_sums(value, 0).x; }

// Notes the first number outside its range; CudaStream::wait turns it into an exception.
__device__ inline void report(Fault* fault, Fault::Kind kind, int number, long long position, long long size) {
    if (atomicCAS(&fault->kind, static_cast<int>(Fault::none), static_cast<int>(kind)) != Fault::none) return;
    fault->number = number;
    fault->position = position;
    fault->size = size;
}

} // namespace tessera::cuda
