// SPDX-License-Identifier: Apache-2.0
// The gradients of the norms on the GPU, in one pass over x and dy: while a team goes through its rows it keeps its
// sums of the parameters' gradients in registers; the sums of the blocks are then added in a fixed order.
#include "kernels/norm.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_row.cuh"

namespace tessera::kernels {
namespace {

// How many blocks the rows are cut into: two for each multiprocessor of an H100 or H200 and no more, and 16 rows a
// block, so that the blocks' sums are small beside what is summed. A function of the sizes, like the order of the sums.
constexpr std::int64_t row_blocks(std::int64_t rows) {
    return std::min<std::int64_t>(2 * 132, cuda::divide_up(rows, 16));
}

template <class T> struct Backward {
    const T* x;
    const float* scale;
    const float* mean; // where centered
    const float* rstd;
    const T* dy;
    const T* dsum;  // where summed: added to dx
    T* dx;          // may be dy or dsum
    float* partial; // (blocks, 2, columns): sums for dscale and, where centered, dbias
    std::int64_t rows, columns;
};

// What a lane has summed over its team's rows.
template <class Team> struct ParameterSums {
    cuda::Piece<float, Team::width> scale[Team::pieces];
    cuda::Piece<float, Team::width> bias[Team::pieces];
};

template <bool centered, bool summed, class Team, class T>
__device__ __forceinline__ void gradient_of_row(const Backward<T>& a, std::int64_t row, ParameterSums<Team>& sums) {
    constexpr int width = Team::width, pieces = Team::pieces;
    const std::int64_t start = row * a.columns;
    const float mean = centered ? a.mean[row] : 0.0f, rstd = a.rstd[row];
    cuda::Piece<T, width> x[pieces] = {}, dy[pieces] = {};
#pragma unroll
    for (int k = 0; k < pieces; ++k)
        if (const int column = Team::column(k); column < a.columns) {
            x[k] = cuda::load_piece<width>(a.x + start + column);
            dy[k] = cuda::load_piece<width>(a.dy + start + column);
        }
    float sum = 0, product = 0;
#pragma unroll
    for (int k = 0; k < pieces; ++k) {
        if (Team::column(k) >= a.columns) continue;
        const auto scale = cuda::load_piece<width>(a.scale + Team::column(k));
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const float h = (cuda::to_float(x[k].element[i]) - mean) * rstd, g = cuda::to_float(dy[k].element[i]);
            const float scaled = g * scale.element[i];
            if constexpr (centered) sum += scaled;
            product += scaled * h;
            sums.scale[k].element[i] += g * h;
            if constexpr (centered) sums.bias[k].element[i] += g;
        }
    }
    const float2 totals = Team::sums(sum, product);
    const float share = 1.0f / static_cast<float>(a.columns);
    const float mean_of_g = totals.x * share, mean_of_product = totals.y * share;
#pragma unroll
    for (int k = 0; k < pieces; ++k) {
        if (Team::column(k) >= a.columns) continue;
        const auto scale = cuda::load_piece<width>(a.scale + Team::column(k));
        cuda::Piece<T, width> dsum = {}, out;
        if constexpr (summed) dsum = cuda::load_piece<width>(a.dsum + start + Team::column(k));
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const float h = (cuda::to_float(x[k].element[i]) - mean) * rstd;
            const float scaled = cuda::to_float(dy[k].element[i]) * scale.element[i];
            const float dx = (scaled - mean_of_g - h * mean_of_product) * rstd;
            out.element[i] = cuda::from_float<T>(summed ? dx + cuda::to_float(dsum.element[i]) : dx);
        }
        cuda::store_piece(a.dx + start + Team::column(k), out);
    }
}

// partial = the sum of what the block's warps have summed, first to last, by way of shared memory.
template <class Team> __device__ __forceinline__ void
add_warps(const cuda::Piece<float, Team::width> (&sums)[Team::pieces], float4* parts, int columns, float* partial) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int k = 0; k < Team::pieces; ++k)
        if (const int column = Team::column(k); column < columns)
#pragma unroll
            for (int i = 0; i < Team::width; i += 4)
                parts[(warp * columns + column + i) / 4] = make_float4(sums[k].element[i], sums[k].element[i + 1],
                                                                       sums[k].element[i + 2], sums[k].element[i + 3]);
    __syncthreads();
    const auto* part = reinterpret_cast<const float*>(parts);
    for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) {
        float total = 0;
#pragma unroll
        for (int w = 0; w < cuda::norm_warps; ++w)
            total += part[w * columns + c];
        partial[c] = total;
    }
    __syncthreads();
}

// Blocks on one multiprocessor: two where 128 registers a thread suffice without spilling.
template <int groups, bool whole_block> constexpr int side_by_side = whole_block || groups == 4 ? 1 : 2;

template <bool centered, bool summed, class T, int groups, bool whole_block>
__global__ void __launch_bounds__(cuda::Team<T, groups, whole_block>::largest_block, side_by_side<groups, whole_block>)
    norm_gradient_kernel(Backward<T> a) {
    using Team = cuda::Team<T, groups, whole_block>;
    ParameterSums<Team> sums = {};
    for (std::int64_t row = Team::number(); row < a.rows; row += Team::count())
        gradient_of_row<centered, summed>(a, row, sums);
    float* partial = a.partial + static_cast<std::int64_t>(blockIdx.x) * 2 * a.columns;
    if constexpr (whole_block) {
#pragma unroll
        for (int k = 0; k < Team::pieces; ++k)
            if (const int column = Team::column(k); column < a.columns) {
                cuda::store_piece(partial + column, sums.scale[k]);
                if constexpr (centered) cuda::store_piece(partial + a.columns + column, sums.bias[k]);
            }
    } else {
        TESSERA_SHARED(float4, parts, [cuda::norm_warps * cuda::widest_warp_row / 4]);
        add_warps<Team>(sums.scale, parts, static_cast<int>(a.columns), partial);
        if constexpr (centered) add_warps<Team>(sums.bias, parts, static_cast<int>(a.columns), partial + a.columns);
    }
}

// For rows of any width and alignment. Block (i, j): the sums of columns [i * threads, (i + 1) * threads) over the rows
// of row block j. Runs before dx is written.
template <bool centered, class T> __global__ void __launch_bounds__(cuda::norm_loop_threads)
    parameter_sums_kernel(Backward<T> a) {
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (column >= a.columns) return;
    float scale = 0, bias = 0;
    for (std::int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
        const float mean = centered ? a.mean[row] : 0.0f;
        const float g = cuda::to_float(a.dy[row * a.columns + column]);
        scale += g * ((cuda::to_float(a.x[row * a.columns + column]) - mean) * a.rstd[row]);
        bias += g;
    }
    float* partial = a.partial + static_cast<std::int64_t>(blockIdx.y) * 2 * a.columns;
    partial[column] = scale;
    if constexpr (centered) partial[a.columns + column] = bias;
}

template <bool centered, bool summed, class T> __global__ void __launch_bounds__(cuda::norm_loop_threads)
    norm_gradient_loop_kernel(Backward<T> a) {
    const std::int64_t row = blockIdx.x, start = row * a.columns;
    const float mean = centered ? a.mean[row] : 0.0f, rstd = a.rstd[row];
    float sum = 0, product = 0;
    for (std::int64_t c = threadIdx.x; c < a.columns; c += blockDim.x) {
        const float scaled = cuda::to_float(a.dy[start + c]) * a.scale[c];
        if constexpr (centered) sum += scaled;
        product += scaled * ((cuda::to_float(a.x[start + c]) - mean) * rstd);
    }
    const float2 totals = cuda::block_sums(sum, product);
    const float share = 1.0f / static_cast<float>(a.columns);
    const float mean_of_g = totals.x * share, mean_of_product = totals.y * share;
    for (std::int64_t c = threadIdx.x; c < a.columns; c += blockDim.x) {
        const float h = (cuda::to_float(a.x[start + c]) - mean) * rstd;
        const float scaled = cuda::to_float(a.dy[start + c]) * a.scale[c];
        const float dx = (scaled - mean_of_g - h * mean_of_product) * rstd;
        a.dx[start + c] = cuda::from_float<T>(summed ? dx + cuda::to_float(a.dsum[start + c]) : dx);
    }
}

// y[c] = sum over the blocks of partial[block * stride + c]: a thread adds every 32nd block, then a warp its lanes.
// Block (i, 0): 32 columns of `first`; (i, 1): of `second`, whose sums stand `columns` further on.
__global__ void __launch_bounds__(1024) add_blocks_kernel(const float* __restrict__ partial, std::int64_t blocks,
                                                          std::int64_t columns, float* first, float* second) {
    TESSERA_SHARED(float, parts, [32][33]);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * 32;
    float sum = 0;
    if (tile + lane < columns)
        for (std::int64_t block = warp; block < blocks; block += 32)
            sum += partial[(block * 2 + blockIdx.y) * columns + tile + lane];
    parts[warp][lane] = sum;
    __syncthreads();
    const float total = cuda::warp_sum(parts[lane][warp]);
    float* y = blockIdx.y == 0 ? first : second;
    if (lane == 0 && tile + warp < columns) y[tile + warp] = total;
}

template <bool centered, bool summed, class T>
void launch_gradient(CudaStream& stream, const char* kernel, const Backward<T>& a) {
    const auto blocks = static_cast<unsigned>(row_blocks(a.rows));
    if (cuda::rows_fit<T>(a.columns, {a.x, a.dy, a.dsum, a.dx, a.scale, a.partial}))
        return cuda::with_team(a.columns, [&]<int groups, bool whole_block>(int threads) {
            cuda::launch(kernel, stream, norm_gradient_kernel<centered, summed, T, groups, whole_block>, blocks,
                         threads, 0, a);
        });
    const dim3 tiles(cuda::blocks(a.columns, cuda::norm_loop_threads), blocks);
    cuda::launch(kernel, stream, parameter_sums_kernel<centered, T>, tiles, cuda::norm_loop_threads, 0, a);
    cuda::launch(kernel, stream, norm_gradient_loop_kernel<centered, summed, T>, cuda::blocks(a.rows, 1),
                 cuda::norm_loop_threads, 0, a);
}

template <bool centered, bool summed> void backward(CudaStream& stream, const char* kernel, ConstView x,
                                                    ConstView scale, ConstView mean, ConstView rstd, ConstView dy,
                                                    ConstView dsum, View dx, View dscale, View dbias, View workspace) {
    const auto [rows, columns] = cuda::norm_sizes(kernel, x, scale);
    check_count(kernel, "dy", dy, x.count());
    if (summed) check_count(kernel, "dsum", dsum, x.count());
    check_count(kernel, "dx", dx, x.count());
    check_count(kernel, "rstd", rstd, rows);
    if (centered) check_count(kernel, "mean", mean, rows);
    check_count(kernel, "dscale", dscale, columns);
    if (dbias) check_count(kernel, "dbias", dbias, columns);
    check_workspace(kernel, workspace, norm_gradient_workspace_bytes(stream, rows, columns));
    auto* partial = static_cast<float*>(workspace.memory());
    cuda::with_float_type(kernel, x.dtype, [&, rows = rows, columns = columns]<class T>() {
        const Backward<T> a{cuda::pointer<T>(x),
                            cuda::pointer<float>(scale),
                            cuda::pointer<float>(mean),
                            cuda::pointer<float>(rstd),
                            cuda::pointer<T>(dy),
                            summed ? cuda::pointer<T>(dsum) : nullptr,
                            cuda::pointer<T>(dx),
                            partial,
                            rows,
                            columns};
        launch_gradient<centered, summed>(stream, kernel, a);
    });
    cuda::launch(kernel, stream, add_blocks_kernel, dim3(cuda::blocks(columns, 32), dbias ? 2 : 1), 1024, 0, partial,
                 row_blocks(rows), columns, cuda::pointer<float>(dscale), cuda::pointer<float>(dbias));
}

} // namespace

void layer_norm_gradient(CudaStream& stream, ConstView x, ConstView scale, ConstView mean, ConstView rstd, ConstView dy,
                         View dx, View dscale, View dbias, View workspace) {
    backward<true, false>(stream, "layer_norm_gradient", x, scale, mean, rstd, dy, {}, dx, dscale, dbias, workspace);
}

void rms_norm_gradient(CudaStream& stream, ConstView x, ConstView scale, ConstView rstd, ConstView dy, View dx,
                       View dscale, View workspace) {
    backward<false, false>(stream, "rms_norm_gradient", x, scale, {}, rstd, dy, {}, dx, dscale, {}, workspace);
}

void add_layer_norm_gradient(CudaStream& stream, ConstView sum, ConstView scale, ConstView mean, ConstView rstd,
                             ConstView dy, ConstView dsum, View dx, View dscale, View dbias, View workspace) {
    backward<true, true>(stream, "add_layer_norm_gradient", sum, scale, mean, rstd, dy, dsum, dx, dscale, dbias,
                         workspace);
}

void add_rms_norm_gradient(CudaStream& stream, ConstView sum, ConstView scale, ConstView rstd, ConstView dy,
                           ConstView dsum, View dx, View dscale, View workspace) {
    backward<false, true>(stream, "add_rms_norm_gradient", sum, scale, {}, rstd, dy, dsum, dx, dscale, {}, workspace);
}

std::int64_t norm_gradient_workspace_bytes(const CudaStream&, std::int64_t rows, std::int64_t columns) {
    return row_blocks(rows) * 2 * columns * bytes_of(DType::f32);
}

} // namespace tessera::kernels
