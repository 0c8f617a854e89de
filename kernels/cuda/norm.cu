// SPDX-License-Identifier: Apache-2.0
// Layer norm and root-mean-square norm on the GPU, alone or of a sum made on the way: a row is read once and stays in
// registers between its passes.
#include "kernels/norm.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_row.cuh"

namespace tessera::kernels {
namespace {

template <class T> struct Forward {
    const T* x; // or, where summed, the first summand
    const T* added;
    T* sum;
    const float* scale;
    const float* bias; // may be null
    float epsilon;
    T* y;
    float* mean; // where centered
    float* rstd;
    std::int64_t rows, columns;
};

// The lane's piece of x or, where `summed`, of the sum, which is then written.
template <bool summed, class T, int width>
__device__ __forceinline__ cuda::Piece<T, width> piece_of(const Forward<T>& a, std::int64_t at) {
    auto piece = cuda::load_piece<width>(a.x + at);
    if constexpr (summed) {
        const auto added = cuda::load_piece<width>(a.added + at);
#pragma unroll
        for (int i = 0; i < width; ++i)
            piece.element[i] = cuda::from_float<T>(cuda::to_float(piece.element[i]) + cuda::to_float(added.element[i]));
        cuda::store_piece(a.sum + at, piece);
    }
    return piece;
}

// Layer norm where `centered`, else root-mean-square norm.
template <bool centered, bool summed, class T, int groups, bool whole_block>
__global__ void __launch_bounds__(cuda::Team<T, groups, whole_block>::largest_block) norm_kernel(Forward<T> a) {
    using Team = cuda::Team<T, groups, whole_block>;
    constexpr int width = Team::width, pieces = Team::pieces;
    const std::int64_t row = Team::number();
    if (row >= a.rows) return; // a warp as a whole; a block always has a row
    float value[pieces][width];
#pragma unroll
    for (int k = 0; k < pieces; ++k) {
        cuda::Piece<T, width> piece = {};
        if (Team::column(k) < a.columns) piece = piece_of<summed, T, width>(a, row * a.columns + Team::column(k));
#pragma unroll
        for (int i = 0; i < width; ++i)
            value[k][i] = cuda::to_float(piece.element[i]);
    }
    const float share = 1.0f / static_cast<float>(a.columns);
    float mean = 0;
    if constexpr (centered) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < pieces; ++k)
#pragma unroll
            for (int i = 0; i < width; ++i)
                sum += value[k][i];
        mean = Team::sum(sum) * share;
    }
    float squares = 0;
#pragma unroll
    for (int k = 0; k < pieces; ++k)
        if (Team::column(k) < a.columns)
#pragma unroll
            for (int i = 0; i < width; ++i)
                squares += (value[k][i] - mean) * (value[k][i] - mean);
    const float rstd = 1.0f / sqrtf(Team::sum(squares) * share + a.epsilon);
    if (Team::lane() == 0) {
        if constexpr (centered) a.mean[row] = mean;
        a.rstd[row] = rstd;
    }
#pragma unroll
    for (int k = 0; k < pieces; ++k) {
        const int column = Team::column(k);
        if (column >= a.columns) continue;
        const auto scale = cuda::load_piece<width>(a.scale + column);
        cuda::Piece<float, width> bias = {};
        if (centered && a.bias != nullptr) bias = cuda::load_piece<width>(a.bias + column);
        cuda::Piece<T, width> out;
#pragma unroll
        for (int i = 0; i < width; ++i)
            out.element[i] = cuda::from_float<T>((value[k][i] - mean) * rstd * scale.element[i] + bias.element[i]);
        cuda::store_piece(a.y + row * a.columns + column, out);
    }
}

// The same for rows of any width and alignment: a block reads its row three times, a thread always the same elements.
template <bool centered, bool summed, class T> __global__ void __launch_bounds__(cuda::norm_loop_threads)
    norm_loop_kernel(Forward<T> a) {
    const std::int64_t row = blockIdx.x;
    const T* x = a.x + row * a.columns;
    if constexpr (summed) {
        const T* added = a.added + row * a.columns;
        T* sum = a.sum + row * a.columns;
        for (std::int64_t c = threadIdx.x; c < a.columns; c += blockDim.x)
            sum[c] = cuda::from_float<T>(cuda::to_float(x[c]) + cuda::to_float(added[c]));
        x = sum;
    }
    const float share = 1.0f / static_cast<float>(a.columns);
    float mean = 0;
    if constexpr (centered) {
        float sum = 0;
        for (std::int64_t c = threadIdx.x; c < a.columns; c += blockDim.x)
            sum += cuda::to_float(x[c]);
        mean = cuda::block_sum(sum) * share;
    }
    float squares = 0;
    for (std::int64_t c = threadIdx.x; c < a.columns; c += blockDim.x) {
        const float distance = cuda::to_float(x[c]) - mean;
        squares += distance * distance;
    }
    const float rstd = 1.0f / sqrtf(cuda::block_sum(squares) * share + a.epsilon);
    if (threadIdx.x == 0) {
        if constexpr (centered) a.mean[row] = mean;
        a.rstd[row] = rstd;
    }
    for (std::int64_t c = threadIdx.x; c < a.columns; c += blockDim.x) {
        const float h = (cuda::to_float(x[c]) - mean) * rstd;
        const float bias = centered && a.bias != nullptr ? a.bias[c] : 0.0f;
        a.y[row * a.columns + c] = cuda::from_float<T>(h * a.scale[c] + bias);
    }
}

struct Addition {
    ConstView a, b;
    View sum;
};

// Where `summed`, x is the sum of the addition, which is made here.
template <bool centered, bool summed> void forward(CudaStream& stream, const char* kernel, const Addition& added,
                                                   ConstView x, ConstView scale, ConstView bias, float epsilon, View y,
                                                   View mean, View rstd) {
    const auto [rows, columns] = cuda::norm_sizes(kernel, x, scale);
    if (summed) {
        check_count(kernel, "a", added.a, x.count());
        check_count(kernel, "b", added.b, x.count());
    }
    check_count(kernel, "y", y, x.count());
    check_count(kernel, "rstd", rstd, rows);
    if (centered) check_count(kernel, "mean", mean, rows);
    if (bias) check_count(kernel, "bias", bias, columns);
    cuda::with_float_type(kernel, x.dtype, [&, rows = rows, columns = columns]<class T>() {
        Forward<T> a{cuda::pointer<T>(x),
                     nullptr,
                     nullptr,
                     cuda::pointer<float>(scale),
                     cuda::pointer<float>(bias),
                     epsilon,
                     cuda::pointer<T>(y),
                     cuda::pointer<float>(mean),
                     cuda::pointer<float>(rstd),
                     rows,
                     columns};
        if constexpr (summed) {
            a.x = cuda::pointer<T>(added.a);
            a.added = cuda::pointer<T>(added.b);
            a.sum = cuda::pointer<T>(added.sum);
        }
        if (!cuda::rows_fit<T>(columns, {a.x, a.added, a.sum, a.y, a.scale, a.bias}))
            return cuda::launch(kernel, stream, norm_loop_kernel<centered, summed, T>, cuda::blocks(rows, 1),
                                cuda::norm_loop_threads, 0, a);
        cuda::with_team(columns, [&]<int groups, bool whole_block>(int threads) {
            cuda::launch(kernel, stream, norm_kernel<centered, summed, T, groups, whole_block>,
                         cuda::blocks(rows, whole_block ? 1 : cuda::norm_warps), threads, 0, a);
        });
    });
}

} // namespace

void layer_norm(CudaStream& stream, ConstView x, ConstView scale, ConstView bias, float epsilon, View y, View mean,
                View rstd) {
    forward<true, false>(stream, "layer_norm", {}, x, scale, bias, epsilon, y, mean, rstd);
}

void rms_norm(CudaStream& stream, ConstView x, ConstView scale, float epsilon, View y, View rstd) {
    forward<false, false>(stream, "rms_norm", {}, x, scale, {}, epsilon, y, {}, rstd);
}

void add_layer_norm(CudaStream& stream, ConstView a, ConstView b, ConstView scale, ConstView bias, float epsilon,
                    View sum, View y, View mean, View rstd) {
    forward<true, true>(stream, "add_layer_norm", {a, b, sum}, sum, scale, bias, epsilon, y, mean, rstd);
}

void add_rms_norm(CudaStream& stream, ConstView a, ConstView b, ConstView scale, float epsilon, View sum, View y,
                  View rstd) {
    forward<false, true>(stream, "add_rms_norm", {a, b, sum}, sum, scale, {}, epsilon, y, {}, rstd);
}

} // namespace tessera::kernels
