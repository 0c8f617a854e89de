// SPDX-License-Identifier: Apache-2.0
// Batch normalisation on the GPU: sums by blocks of rows, then over the blocks in a fixed order; what is made of each
// element by one thread.
#include "kernels/batch_norm.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/piece.cuh"

#include <algorithm>

namespace tessera::kernels {
namespace {

constexpr int tile = 32; // columns of a block, one of each lane
constexpr int warps = 8; // each takes every eighth row
constexpr int threads = 256;

struct Statistics {
    const float* sums;
    const float* squares;
    float share; // one row's, of all
    float epsilon;

    __device__ float mean(std::int64_t c) const { return sums[c] * share; }
    __device__ float rstd(std::int64_t c) const { return 1.0f / sqrtf(squares[c] * share + epsilon); }
};

// What is summed over the rows of a column: (x, dy) -> two numbers.
struct Squares {
    static constexpr int count = 1;
    template <class T> __device__ void add(const Statistics&, const T* x, const T*, std::int64_t at, float mean,
                                           float (&sum)[count]) const {
        const float distance = cuda::to_float(x[at]) - mean;
        sum[0] = fmaf(distance, distance, sum[0]);
    }
    __device__ static void finish(const Statistics&, std::int64_t, float (&)[count]) {}
};
struct GradientSums {
    static constexpr int count = 2;
    template <class T> __device__ void add(const Statistics&, const T* x, const T* dy, std::int64_t at, float mean,
                                           float (&sum)[count]) const {
        const float g = cuda::to_float(dy[at]);
        sum[0] = fmaf(g, cuda::to_float(x[at]) - mean, sum[0]);
        sum[1] += g;
    }
    __device__ static void finish(const Statistics& of, std::int64_t c, float (&sum)[count]) { sum[0] *= of.rstd(c); }
};

// partial[blockIdx.y, i, c] = what the rows of the block add to sum i of column c
template <class What, class T> __global__ void __launch_bounds__(tile* warps)
    column_sums_kernel(What what, Statistics of, const T* x, const T* dy, std::int64_t rows, std::int64_t columns,
                       std::int64_t rows_per_block, float* partial) {
    TESSERA_SHARED(float, parts, [What::count * warps * tile]);
    const int lane = static_cast<int>(threadIdx.x) % tile, warp = static_cast<int>(threadIdx.x) / tile;
    const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * tile + lane;
    const std::int64_t begin = blockIdx.y * rows_per_block;
    const std::int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    float sum[What::count] = {};
    if (c < columns) {
        const float mean = of.mean(c);
        for (std::int64_t row = begin + warp; row < end; row += warps)
            what.add(of, x, dy, row * columns + c, mean, sum);
        What::finish(of, c, sum);
    }
    for (int i = 0; i < What::count; ++i)
        parts[(i * warps + warp) * tile + lane] = sum[i];
    __syncthreads();
    if (warp >= What::count || c >= columns) return;
    float total = 0;
    for (int other = 0; other < warps; ++other)
        total += parts[(warp * warps + other) * tile + lane];
    partial[(static_cast<std::int64_t>(blockIdx.y) * What::count + warp) * columns + c] = total;
}

__global__ void __launch_bounds__(threads)
    add_blocks_kernel(const float* partial, std::int64_t blocks, std::int64_t columns, float* y) {
    const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (c >= columns) return;
    float sum = 0;
    for (std::int64_t block = 0; block < blocks; ++block)
        sum += partial[block * columns + c];
    y[c] = sum;
}

// Enough blocks for some hundred multiprocessors, each with 64 rows at least; at most 256 partial sums of a column.
std::int64_t rows_per_block_of(std::int64_t rows, std::int64_t columns) {
    const std::int64_t tiles = std::max<std::int64_t>(1, cuda::divide_up(columns, tile));
    const std::int64_t blocks = std::clamp<std::int64_t>(cuda::divide_up(1056, tiles), 1, 256);
    return std::max<std::int64_t>(64, cuda::divide_up(rows, blocks));
}

struct Sizes {
    std::int64_t rows, columns;
};

Sizes sizes_of(const char* kernel, const ConstView& x, const ConstView& sums) {
    const std::int64_t columns = sums.count(), rows = columns == 0 ? 0 : x.count() / columns;
    check_count(kernel, "x", x, rows * columns);
    return {rows, columns};
}

Statistics statistics_of(ConstView sums, ConstView squares, std::int64_t rows, float epsilon) {
    return {cuda::pointer<float>(sums), cuda::pointer<float>(squares), 1.0f / static_cast<float>(rows), epsilon};
}

template <class What> void column_sums(CudaStream& stream, const char* kernel, const Statistics& of, const Sizes& size,
                                       ConstView x, ConstView dy, View y, View workspace) {
    check_count(kernel, "the result", y, What::count * size.columns);
    check_workspace(kernel, workspace, batch_norm_workspace_bytes(stream, size.rows, size.columns));
    auto* result = cuda::pointer<float>(y);
    if (size.rows == 0)
        return cuda::check(cudaMemsetAsync(result, 0, static_cast<std::size_t>(y.bytes()), stream.state().stream),
                           "cudaMemsetAsync", y.bytes());
    const std::int64_t each = rows_per_block_of(size.rows, size.columns), blocks = cuda::divide_up(size.rows, each);
    auto* partial = static_cast<float*>(workspace.memory());
    cuda::with_float_type(kernel, x.dtype, [&]<class T>() {
        const dim3 grid(cuda::blocks(size.columns, tile), static_cast<unsigned>(blocks));
        cuda::launch(kernel, stream, column_sums_kernel<What, T>, grid, tile * warps, 0, What{}, of,
                     cuda::pointer<T>(x), dy.data == nullptr ? nullptr : cuda::pointer<T>(dy), size.rows, size.columns,
                     each, partial);
    });
    const std::int64_t sums = What::count * size.columns;
    cuda::launch(kernel, stream, add_blocks_kernel, cuda::blocks(sums, threads), threads, 0, partial, blocks, sums,
                 result);
}

// What an element becomes; c is its column.
struct Normalise {
    Statistics of;
    const float* scale;
    const float* bias;
    __device__ float operator()(std::int64_t c, float x, float) const {
        return (x - of.mean(c)) * (of.rstd(c) * scale[c]) + bias[c];
    }
};
struct Gradient {
    Statistics of;
    const float* scale;
    const float* dsums;
    std::int64_t columns;
    __device__ float operator()(std::int64_t c, float x, float dy) const {
        const float rstd = of.rstd(c), g = dy - dsums[columns + c] * of.share;
        return (g - (x - of.mean(c)) * (dsums[c] * of.share * rstd)) * (rstd * scale[c]);
    }
};

// `with_dy`: of x and dy. A thread has `width` neighbours, which a row is a multiple of.
template <class What, bool with_dy, class T, int width> __global__ void __launch_bounds__(threads)
    elements_kernel(What what, const T* x, const T* dy, std::int64_t count, std::int64_t columns, T* y) {
    const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * width;
    if (at >= count) return;
    const auto in = cuda::load_piece<width>(x + at);
    cuda::Piece<T, width> more = {}, out;
    if constexpr (with_dy) more = cuda::load_piece<width>(dy + at);
    const std::int64_t c = at % columns;
#pragma unroll
    for (int i = 0; i < width; ++i)
        out.element[i] =
            cuda::from_float<T>(what(c + i, cuda::to_float(in.element[i]), cuda::to_float(more.element[i])));
    cuda::store_piece(y + at, out);
}

template <bool with_dy, class What> void for_elements(CudaStream& stream, const char* kernel, const What& what,
                                                      std::int64_t columns, ConstView x, ConstView dy, View y) {
    check_count(kernel, "the result", y, x.count());
    cuda::with_float_type(kernel, x.dtype, [&]<class T>() {
        const T *from = cuda::pointer<T>(x), *more = with_dy ? cuda::pointer<T>(dy) : nullptr;
        T* to = cuda::pointer<T>(y);
        cuda::with_width<T>(columns % cuda::Vector<T>::count == 0 && cuda::aligned({from, more, to}), [&]<int width>() {
            cuda::launch(kernel, stream, elements_kernel<What, with_dy, T, width>,
                         cuda::blocks(x.count(), threads * width), threads, 0, what, from, more, x.count(), columns,
                         to);
        });
    });
}

__global__ void __launch_bounds__(threads) moments_kernel(const float* sums, const float* squares, float rows,
                                                          float others, std::int64_t columns, float* moments) {
    const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (c >= columns) return;
    moments[c] = sums[c] / rows;
    moments[columns + c] = squares[c] / others;
    moments[2 * columns + c] = 1;
}

__global__ void __launch_bounds__(threads) running_kernel(const float* moments, const float* factor, float momentum,
                                                          std::int64_t columns, float* mean, float* variance) {
    const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (c >= columns || *factor == 0) return;
    const float batches = moments[2 * columns + c];
    if (batches == 0) return;
    mean[c] += momentum * (moments[c] / batches - mean[c]);
    variance[c] += momentum * (moments[columns + c] / batches - variance[c]);
}

} // namespace

void centered_squares(CudaStream& stream, ConstView x, ConstView sums, std::int64_t rows, View squares,
                      View workspace) {
    constexpr const char* kernel = "centered_squares";
    column_sums<Squares>(stream, kernel, statistics_of(sums, sums, rows, 0), sizes_of(kernel, x, sums), x, {}, squares,
                         workspace);
}

void batch_norm(CudaStream& stream, ConstView x, ConstView sums, ConstView squares, std::int64_t rows, ConstView scale,
                ConstView bias, float epsilon, View y) {
    constexpr const char* kernel = "batch_norm";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "squares", squares, size.columns);
    check_count(kernel, "scale", scale, size.columns);
    check_count(kernel, "bias", bias, size.columns);
    for_elements<false>(
        stream, kernel,
        Normalise{statistics_of(sums, squares, rows, epsilon), cuda::pointer<float>(scale), cuda::pointer<float>(bias)},
        size.columns, x, {}, y);
}

void batch_norm_gradient_sums(CudaStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                              std::int64_t rows, float epsilon, View dsums, View workspace) {
    constexpr const char* kernel = "batch_norm_gradient_sums";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "dy", dy, x.count());
    check_count(kernel, "squares", squares, size.columns);
    column_sums<GradientSums>(stream, kernel, statistics_of(sums, squares, rows, epsilon), size, x, dy, dsums,
                              workspace);
}

void batch_norm_gradient(CudaStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                         std::int64_t rows, ConstView scale, ConstView dsums, float epsilon, View dx) {
    constexpr const char* kernel = "batch_norm_gradient";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "dy", dy, x.count());
    check_count(kernel, "squares", squares, size.columns);
    check_count(kernel, "scale", scale, size.columns);
    check_count(kernel, "dsums", dsums, 2 * size.columns);
    for_elements<true>(stream, kernel,
                       Gradient{statistics_of(sums, squares, rows, epsilon), cuda::pointer<float>(scale),
                                cuda::pointer<float>(dsums), size.columns},
                       size.columns, x, dy, dx);
}

std::int64_t batch_norm_workspace_bytes(const CudaStream&, std::int64_t rows, std::int64_t columns) {
    return cuda::divide_up(rows, rows_per_block_of(rows, columns)) * 2 * columns * bytes_of(DType::f32);
}

void batch_moments(CudaStream& stream, ConstView sums, ConstView squares, std::int64_t rows, View moments) {
    const std::int64_t columns = sums.count();
    check_count("batch_moments", "squares", squares, columns);
    check_count("batch_moments", "moments", moments, 3 * columns);
    cuda::launch("batch_moments", stream, moments_kernel, cuda::blocks(columns, threads), threads, 0,
                 cuda::pointer<float>(sums), cuda::pointer<float>(squares), static_cast<float>(rows),
                 static_cast<float>(std::max<std::int64_t>(rows - 1, 1)), columns, cuda::pointer<float>(moments));
}

void running_statistics(CudaStream& stream, ConstView moments, ConstView factor, float momentum, View mean,
                        View variance) {
    const std::int64_t columns = mean.count();
    check_count("running_statistics", "moments", moments, 3 * columns);
    check_count("running_statistics", "factor", factor, 1);
    check_count("running_statistics", "variance", variance, columns);
    cuda::launch("running_statistics", stream, running_kernel, cuda::blocks(columns, threads), threads, 0,
                 cuda::pointer<float>(moments), cuda::pointer<float>(factor), momentum, columns,
                 cuda::pointer<float>(mean), cuda::pointer<float>(variance));
}

} // namespace tessera::kernels
