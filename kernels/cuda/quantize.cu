// SPDX-License-Identifier: Apache-2.0
// Tensors in 8 bits on the GPU: one pass for the largest magnitude, one that reads a tile, rounds it, and writes it as
// it lies and, by way of shared memory, transposed.
#include "kernels/cuda/launch.cuh"
#include "kernels/float8.hpp"
#include "kernels/quantize.hpp"

#include <algorithm>
#include <cuda_fp8.h>

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr int chunk = 8;                               // elements of a row (or column) that a thread moves at once
constexpr int tile = 64;                               // rows and columns
constexpr int chunks = tile / chunk;                   // of a row of a tile
constexpr int rows_at_once = threads / chunks;         // 32
constexpr std::int64_t most_blocks = 2048;             // of the first pass: some for each multiprocessor
constexpr __nv_saturation_t saturate = __NV_SATFINITE; // as Float8 does

template <class T> struct alignas(16) Chunk { T element[chunk]; };
struct alignas(chunk) Bytes {
    __nv_fp8_storage_t element[chunk];
};

// The first `inside` elements of a chunk; all of them at once where memory is aligned to chunks and holds whole ones.
template <bool aligned, class Part, class Element>
__device__ __forceinline__ void read(const Element* from, int inside, Part& part) {
    if constexpr (aligned) {
        if (inside > 0) part = *reinterpret_cast<const Part*>(from);
    } else {
#pragma unroll
        for (int i = 0; i < chunk; ++i)
            if (i < inside) part.element[i] = from[i];
    }
}
template <bool aligned, class Part, class Element>
__device__ __forceinline__ void write(const Part& part, int inside, Element* to) {
    if constexpr (aligned) {
        if (inside > 0) *reinterpret_cast<Part*>(to) = part;
    } else {
#pragma unroll
        for (int i = 0; i < chunk; ++i)
            if (i < inside) to[i] = part.element[i];
    }
}

// Bits of magnitudes are ordered as these are, with NaN above all; their largest does not depend on any order.
template <class T, bool aligned> __global__ void __launch_bounds__(threads)
    largest_magnitude(const T* __restrict__ x, unsigned* __restrict__ largest, std::int64_t count) {
    const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads * chunk;
    unsigned found = 0;
    const auto look = [&](T element) { found = max(found, __float_as_uint(cuda::to_float(element)) & 0x7fffffffu); };
    for (std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * chunk; first < count;
         first += stride) {
        if (aligned && first + chunk <= count) {
            const auto part = *reinterpret_cast<const Chunk<T>*>(x + first);
            for (int i = 0; i < chunk; ++i)
                look(part.element[i]);
        } else {
            for (std::int64_t i = first; i < min(first + chunk, count); ++i)
                look(x[i]);
        }
    }
    for (int distance = 16; distance > 0; distance /= 2)
        found = max(found, __shfl_xor_sync(cuda::all_lanes, found, distance));
    if (threadIdx.x % 32 == 0 && found > 0) atomicMax(largest, found);
}

// rows x columns of x; `aligned`: chunks of rows and of columns are whole and aligned everywhere.
template <class T, __nv_fp8_interpretation_t kind, bool aligned> __global__ void __launch_bounds__(threads)
    quantize_kernel(const T* __restrict__ x, __nv_fp8_storage_t* __restrict__ y,
                    __nv_fp8_storage_t* __restrict__ transposed, const float* __restrict__ amax,
                    float* __restrict__ scale, float largest, std::int64_t rows, std::int64_t columns,
                    std::int64_t column_tiles) {
    TESSERA_SHARED(Bytes, turned, [tile][chunks + 1]);                   // turned[column] holds the tile's rows
    const float divided = *amax < smallest_amax ? smallest_amax : *amax; // a NaN stays
    const float factor = largest / divided;
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = divided / largest;

    const std::int64_t first_row = blockIdx.x / column_tiles * tile;
    const std::int64_t first_column = blockIdx.x % column_tiles * tile;
    const int part = static_cast<int>(threadIdx.x) % chunks;
    const std::int64_t column = first_column + part * chunk;
    for (int i = static_cast<int>(threadIdx.x) / chunks; i < tile; i += rows_at_once) {
        const std::int64_t row = first_row + i, at = row * columns + column;
        const int inside = row < rows ? static_cast<int>(min(columns - column, std::int64_t{chunk})) : 0;
        Chunk<T> in{};
        read<aligned>(x + at, inside, in);
        Bytes out;
        for (int j = 0; j < chunk; j += 2) {
            const float2 two =
                make_float2(cuda::to_float(in.element[j]) * factor, cuda::to_float(in.element[j + 1]) * factor);
            const __nv_fp8x2_storage_t bits = __nv_cvt_float2_to_fp8x2(two, saturate, kind);
            out.element[j] = static_cast<__nv_fp8_storage_t>(bits & 0xff);
            out.element[j + 1] = static_cast<__nv_fp8_storage_t>(bits >> 8);
        }
        if (y != nullptr) write<aligned>(out, inside, y + at);
        for (int j = 0; j < chunk; ++j)
            turned[part * chunk + j][i / chunk].element[i % chunk] = out.element[j];
    }
    if (transposed == nullptr) return;
    __syncthreads();
    const std::int64_t row = first_row + part * chunk;
    for (int j = static_cast<int>(threadIdx.x) / chunks; j < tile; j += rows_at_once) {
        if (first_column + j >= columns) break;
        const std::int64_t at = (first_column + j) * rows + row;
        const int inside = static_cast<int>(min(rows - row, std::int64_t{chunk}));
        write<aligned>(turned[j][part], inside, transposed + at);
    }
}

bool is_aligned(const ConstView& view, std::uintptr_t bytes) {
    return reinterpret_cast<std::uintptr_t>(view.data) % bytes == 0;
}

template <class T, __nv_fp8_interpretation_t kind> void quantize_as(CudaStream& stream, const T* x,
                                                                    const Quantized& result, bool aligned,
                                                                    float largest, const RowsAndColumns& sizes) {
    const auto kernel = aligned ? quantize_kernel<T, kind, true> : quantize_kernel<T, kind, false>;
    const auto bytes = [](const View& view) { return static_cast<__nv_fp8_storage_t*>(view.memory()); };
    const std::int64_t column_tiles = std::max<std::int64_t>(1, cuda::divide_up(sizes.columns, tile));
    const std::int64_t tiles = cuda::divide_up(sizes.rows, tile) * column_tiles;
    // One block at least, which writes the scale.
    cuda::launch("quantize", stream, kernel, static_cast<unsigned>(std::max<std::int64_t>(1, tiles)), threads, 0, x,
                 bytes(result.y), bytes(result.transposed), result.amax.as<float>(), result.scale.as<float>(), largest,
                 sizes.rows, sizes.columns, column_tiles);
}

} // namespace

void quantize(CudaStream& stream, ConstView x, const Quantized& result) {
    const RowsAndColumns sizes = check_quantized(x, result);
    const bool whole = is_aligned(x, 16);
    const bool aligned = whole && is_aligned(result.y, chunk) && is_aligned(result.transposed, chunk) &&
                         sizes.columns % chunk == 0 && (!result.transposed || sizes.rows % chunk == 0);
    cuda::check(cudaMemsetAsync(result.amax.memory(), 0, sizeof(float), stream.state().stream), "cudaMemsetAsync");
    cuda::with_float_type("quantize", x.dtype, [&]<class T>() {
        const std::int64_t blocks = std::min(cuda::divide_up(x.count(), threads * chunk), most_blocks);
        const auto kernel = whole ? largest_magnitude<T, true> : largest_magnitude<T, false>;
        cuda::launch("quantize", stream, kernel, static_cast<unsigned>(blocks), threads, 0, cuda::pointer<T>(x),
                     static_cast<unsigned*>(result.amax.memory()), x.count());
        if (result.dtype() == DType::f8e4m3)
            quantize_as<T, __NV_E4M3>(stream, cuda::pointer<T>(x), result, aligned, Float8E4M3::largest, sizes);
        else
            quantize_as<T, __NV_E5M2>(stream, cuda::pointer<T>(x), result, aligned, Float8E5M2::largest, sizes);
    });
}

} // namespace tessera::kernels
