// SPDX-License-Identifier: Apache-2.0
// Combination of several pieces on the GPU: each thread walks the order for four elements, the topmost of the stack in
// registers and what is below it in shared memory. Bound by memory: every piece is read once.
#include "kernels/combine.hpp"
#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 128;
constexpr int width = 4;        // elements a thread combines
constexpr int most_levels = 24; // of the stack: 48 KB of shared memory. 2048 balanced pieces need 12.

// f32, bf16 and f16 are combined as float, i32 as unsigned, whose sums may wrap around.
template <class T> struct Wide { using type = float; };
template <> struct Wide<std::int32_t> { using type = std::uint32_t; };

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return cuda::to_float(value); }
__device__ __forceinline__ float widen(__half value) { return cuda::to_float(value); }
__device__ __forceinline__ std::uint32_t widen(std::int32_t value) { return static_cast<std::uint32_t>(value); }

__device__ __forceinline__ void narrow(float value, float& to) { to = value; }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16& to) { to = cuda::from_float<__nv_bfloat16>(value); }
__device__ __forceinline__ void narrow(float value, __half& to) { to = cuda::from_float<__half>(value); }
__device__ __forceinline__ void narrow(std::uint32_t value, std::int32_t& to) { to = static_cast<std::int32_t>(value); }

// A NaN on either side wins.
__device__ __forceinline__ float larger(float a, float b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ float smaller(float a, float b) { return b < a || b != b ? b : a; }
__device__ __forceinline__ std::uint32_t larger(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::int32_t>(b) > static_cast<std::int32_t>(a) ? b : a;
}
__device__ __forceinline__ std::uint32_t smaller(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::int32_t>(b) < static_cast<std::int32_t>(a) ? b : a;
}

template <class T> struct alignas(width * sizeof(T)) Four { T element[width]; };

template <class V> __device__ __forceinline__ Four<V> apply(Reduction reduction, const Four<V>& a, const Four<V>& b) {
    Four<V> result;
#pragma unroll
    for (int i = 0; i < width; ++i)
        result.element[i] = reduction == Reduction::sum   ? a.element[i] + b.element[i]
                            : reduction == Reduction::max ? larger(a.element[i], b.element[i])
                                                          : smaller(a.element[i], b.element[i]);
    return result;
}

// `items` elements; four of them at once where `aligned`.
template <class V, class T> __device__ __forceinline__ Four<V> load(const T* from, int items, bool aligned) {
    Four<T> value{};
    if (aligned && items == width)
        value = *reinterpret_cast<const Four<T>*>(from);
    else
#pragma unroll
        for (int i = 0; i < width; ++i)
            if (i < items) value.element[i] = from[i];
    Four<V> result;
#pragma unroll
    for (int i = 0; i < width; ++i)
        result.element[i] = widen(value.element[i]);
    return result;
}

template <class V, class T>
__device__ __forceinline__ void store(T* to, const Four<V>& value, int items, bool aligned) {
    Four<T> result;
#pragma unroll
    for (int i = 0; i < width; ++i)
        narrow(value.element[i], result.element[i]);
    if (aligned && items == width)
        *reinterpret_cast<Four<T>*>(to) = result;
    else
#pragma unroll
        for (int i = 0; i < width; ++i)
            if (i < items) to[i] = result.element[i];
}

// An argument of the kernel: more than 4 KB of them is what older drivers refuse.
template <int most> struct Pieces {
    const void* source[most];
    unsigned char merges_after[most];
    int count;
};

template <class T, int most> __global__ void __launch_bounds__(threads)
    combine_kernel(const Pieces<most> pieces, Reduction reduction, bool aligned, T* target, std::int64_t count) {
    using V = typename Wide<T>::type;
    TESSERA_DYNAMIC_SHARED(Four<V>, stack); // [level][thread]
    const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * width;
    if (first >= count) return;
    const int items = count - first < width ? static_cast<int>(count - first) : width;
    const auto piece = [&](int i) { return load<V>(static_cast<const T*>(pieces.source[i]) + first, items, aligned); };
    Four<V>* below = stack + threadIdx.x;
    Four<V> top = piece(0);
    for (int i = 1; i < pieces.count; ++i) {
        const Four<V> next = piece(i);
        int merges = pieces.merges_after[i];
        if (merges == 0) {
            *below = top;
            below += threads;
            top = next;
            continue;
        }
        top = apply(reduction, top, next);
        for (; merges > 1; --merges) {
            below -= threads;
            top = apply(reduction, *below, top);
        }
    }
    store(target + first, top, items, aligned);
}

template <class T, int most> void run(CudaStream& stream, Reduction reduction, std::span<const int> merges_after,
                                      std::span<const std::byte* const> sources, int levels, std::int64_t count,
                                      std::byte* target) {
    Pieces<most> pieces;
    auto bits = reinterpret_cast<std::uintptr_t>(target);
    for (std::size_t i = 0; i < sources.size(); ++i) {
        pieces.source[i] = sources[i];
        pieces.merges_after[i] = static_cast<unsigned char>(merges_after[i]);
        bits |= reinterpret_cast<std::uintptr_t>(sources[i]);
    }
    pieces.count = static_cast<int>(sources.size());
    const std::size_t shared_bytes = static_cast<std::size_t>(levels - 1) * threads * sizeof(Four<float>);
    cuda::launch("combine", stream, combine_kernel<T, most>, cuda::blocks(count, threads * width), threads,
                 shared_bytes, pieces, reduction, bits % (width * sizeof(T)) == 0, reinterpret_cast<T*>(target), count);
}

template <class T> void run(CudaStream& stream, Reduction reduction, std::span<const int> merges_after,
                            std::span<const std::byte* const> sources, std::int64_t count, std::byte* target) {
    constexpr std::size_t few = 256, many = 2048; // 2.3 and 18 KB of arguments
    const int levels = stack_levels(merges_after, sources.size(), {many, most_levels});
    if (sources.size() <= few)
        run<T, few>(stream, reduction, merges_after, sources, levels, count, target);
    else
        run<T, many>(stream, reduction, merges_after, sources, levels, count, target);
}

} // namespace

void combine(CudaStream& stream, DType dtype, Reduction reduction, std::span<const int> merges_after,
             std::span<const std::byte* const> sources, std::int64_t count, std::span<std::byte* const> targets) {
    if (targets.empty()) return;
    switch (dtype) {
    case DType::f32:
        run<float>(stream, reduction, merges_after, sources, count, targets[0]);
        break;
    case DType::bf16:
        run<__nv_bfloat16>(stream, reduction, merges_after, sources, count, targets[0]);
        break;
    case DType::f16:
        run<__half>(stream, reduction, merges_after, sources, count, targets[0]);
        break;
    case DType::i32:
        run<std::int32_t>(stream, reduction, merges_after, sources, count, targets[0]);
        break;
    default:
        refuse_dtype("combine", dtype);
    }
    for (std::byte* const target : targets.subspan(count > 0 ? 1 : targets.size()))
        cuda::check(cudaMemcpyAsync(target, targets[0], static_cast<std::size_t>(count * bytes_of(dtype)),
                                    cudaMemcpyDeviceToDevice, stream.state().stream),
                    "cudaMemcpyAsync", count * bytes_of(dtype));
}

} // namespace tessera::kernels
