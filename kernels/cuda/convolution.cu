// SPDX-License-Identifier: Apache-2.0
// Convolution on the GPU for any device: one tiled product (implicit GEMM; Chetlur et al. 2014, cuDNN) for the output
// and both gradients, which find their factors by their places, so that no window is ever written down. A sum's order
// is fixed by the sizes; no two threads add to one element.
#include "kernels/cuda/launch.cuh"

#include "kernels/cuda/convolution_variants.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

using Index = std::int64_t;

constexpr int threads = 256;
constexpr int tile = 64;  // rows and columns of a block's result: each thread has 4 x 4
constexpr int depth = 16; // of the sums, at a time
constexpr int loads = tile * depth / threads;
constexpr int own = 4;

// Gradients of weights have few elements and long sums: these are cut into slices, whose results are added in order.
constexpr Index least_slice = 256; // pixels
constexpr Index most_slices = 32;

struct Sizes {
    Index height, width, channels, filters, out_height, out_width; // of images
    Index group_channels, group_filters, groups;
    WindowDim rows, columns;
};

Sizes sizes_of(const Convolution& c) {
    return {c.height,           c.width,           c.channels, c.filters,       c.out_height(), c.out_width(),
            c.group_channels(), c.group_filters(), c.groups,   c.window.height, c.window.width};
}

struct Place { // of a pixel, or of a tap with its channel
    Index image, row, column;
};

__device__ __forceinline__ Place place_in(Index i, Index rows, Index columns) {
    return {i / columns / rows, i / columns % rows, i % columns};
}

// Where in the image an output pixel's window begins, and how far from there a tap is: (row, column, channel).
__device__ __forceinline__ Place window_at(const Sizes& s, Index pixel) {
    const Place at = place_in(pixel, s.out_height, s.out_width);
    return {at.image, at.row * s.rows.stride - s.rows.before, at.column * s.columns.stride - s.columns.before};
}
__device__ __forceinline__ Place tap_at(const Sizes& s, Index tap, Index channels) {
    const Place at = place_in(tap, s.columns.size, channels); // image: r, row: s, column: the channel
    return {at.image * s.rows.dilation, at.row * s.columns.dilation, at.column};
}

template <class T> __device__ __forceinline__ float image_at(const Sizes& s, const T* x, const Place& window,
                                                             const Place& tap, Index group) {
    const Index row = window.row + tap.image, column = window.column + tap.row;
    if (row < 0 || row >= s.height || column < 0 || column >= s.width) return 0;
    const Index channel = group * s.group_channels + tap.column;
    return cuda::to_float(x[((window.image * s.height + row) * s.width + column) * s.channels + channel]);
}

// A problem is a product c = a b of each group: what a row of a and a column of b are is worked out once, what a depth
// is, for each. `by_depth`: neighbouring threads load neighbouring depths, because these are neighbours in memory.

// Rows: pixels of y. Columns: filters. Depths: taps.
template <class T> struct Forward {
    static constexpr bool a_by_depth = true, b_by_depth = true;
    using Row = Place;
    using Column = const T*;
    struct Depth {
        Place tap;
        Index index;
    };
    Sizes s;
    const T *x, *w;
    const float* bias;
    T* y;

    __device__ __forceinline__ Row row(Index, Index m) const { return window_at(s, m); }
    __device__ __forceinline__ Column column(Index group, Index n) const {
        return w + (group * s.group_filters + n) * s.rows.size * s.columns.size * s.group_channels;
    }
    __device__ __forceinline__ Depth a_depth(Index k) const { return {tap_at(s, k, s.group_channels), k}; }
    __device__ __forceinline__ Index b_depth(Index k) const { return k; }
    __device__ __forceinline__ float a(Index group, const Row& row, const Depth& k) const {
        return image_at(s, x, row, k.tap, group);
    }
    __device__ __forceinline__ float b(Index, Index k, Column column) const { return cuda::to_float(column[k]); }
    __device__ __forceinline__ void store(Index group, Index, Index m, Index n, float sum) const {
        const Index filter = group * s.group_filters + n;
        y[m * s.filters + filter] = cuda::from_float<T>(bias == nullptr ? sum : sum + bias[filter]);
    }
};

// Rows: pixels of x. Columns: channels. Depths: taps, each with all filters.
template <class T> struct InputGradient {
    static constexpr bool a_by_depth = true, b_by_depth = false;
    using Row = Place;
    using Column = Index;
    Sizes s;
    const T *dy, *w;
    T* dx;

    __device__ __forceinline__ Row row(Index, Index m) const {
        const Place at = place_in(m, s.height, s.width);
        return {at.image, at.row + s.rows.before, at.column + s.columns.before};
    }
    __device__ __forceinline__ Column column(Index, Index n) const { return n; }
    __device__ __forceinline__ Place a_depth(Index k) const { return tap_at(s, k, s.group_filters); }
    __device__ __forceinline__ Place b_depth(Index k) const { return place_in(k, s.columns.size, s.group_filters); }
    __device__ __forceinline__ float a(Index group, const Row& row, const Place& tap) const {
        const Index below = row.row - tap.image, right = row.column - tap.row; // of the window's first tap
        if (below < 0 || below % s.rows.stride != 0 || right < 0 || right % s.columns.stride != 0) return 0;
        const Index p = below / s.rows.stride, q = right / s.columns.stride;
        if (p >= s.out_height || q >= s.out_width) return 0;
        const Index filter = group * s.group_filters + tap.column;
        return cuda::to_float(dy[((row.image * s.out_height + p) * s.out_width + q) * s.filters + filter]);
    }
    __device__ __forceinline__ float b(Index group, const Place& tap, Column column) const {
        const Index filter = group * s.group_filters + tap.column;
        return cuda::to_float(
            w[((filter * s.rows.size + tap.image) * s.columns.size + tap.row) * s.group_channels + column]);
    }
    __device__ __forceinline__ void store(Index group, Index, Index m, Index n, float sum) const {
        dx[m * s.channels + group * s.group_channels + n] = cuda::from_float<T>(sum);
    }
};

// Rows: filters. Columns: taps. Depths: pixels of y, in slices.
template <class T> struct WeightGradient {
    static constexpr bool a_by_depth = false, b_by_depth = false;
    using Row = Index;
    using Column = Place;
    Sizes s;
    const T *dy, *x;
    float* dw; // (slices, K, R, S, C / G)

    __device__ __forceinline__ Row row(Index group, Index m) const { return group * s.group_filters + m; }
    __device__ __forceinline__ Column column(Index, Index n) const { return tap_at(s, n, s.group_channels); }
    __device__ __forceinline__ Index a_depth(Index k) const { return k; }
    __device__ __forceinline__ Place b_depth(Index k) const { return window_at(s, k); }
    __device__ __forceinline__ float a(Index, Row row, Index k) const {
        return cuda::to_float(dy[k * s.filters + row]);
    }
    __device__ __forceinline__ float b(Index group, const Place& window, const Column& tap) const {
        return image_at(s, x, window, tap, group);
    }
    __device__ __forceinline__ void store(Index group, Index slice, Index m, Index n, float sum) const {
        const Index taps = s.rows.size * s.columns.size * s.group_channels;
        dw[((slice * s.filters) + group * s.group_filters + m) * taps + n] = sum;
    }
};

struct Extent {
    Index m, n, k;        // of each group
    Index groups, slices; // of k
    Index slice() const { return slices == 0 ? 0 : cuda::divide_up(k, slices); }
};

// Which element of a tile a thread's i-th load is: `x` along its rows or columns, `k` along its depth.
struct Load {
    int x, k;
};
template <bool by_depth> __device__ __forceinline__ Load load_of(int i) {
    const int thread = static_cast<int>(threadIdx.x);
    if (by_depth) return {thread / depth + i * (threads / depth), thread % depth};
    return {thread % tile, thread / tile + i * (threads / tile)};
}

template <class Problem> __global__ void __launch_bounds__(threads)
    convolution_kernel(Problem problem, Extent extent, Index slice_depths) {
    TESSERA_SHARED(float, a, [depth * (tile + 4)]);
    TESSERA_SHARED(float, b, [depth * (tile + 4)]);
    constexpr int stride = tile + 4; // fewer conflicts of banks where threads load along the depth
    const Index row_tiles = (extent.m + tile - 1) / tile, column_tiles = (extent.n + tile - 1) / tile;
    Index block = blockIdx.x;
    const Index first_row = block % row_tiles * tile;
    block /= row_tiles;
    const Index first_column = block % column_tiles * tile;
    block /= column_tiles;
    const Index group = block % extent.groups, slice = block / extent.groups;
    typename Problem::Row rows[loads];
    typename Problem::Column columns[loads];
#pragma unroll
    for (int i = 0; i < loads; ++i) {
        rows[i] = problem.row(group, first_row + load_of<Problem::a_by_depth>(i).x);
        columns[i] = problem.column(group, first_column + load_of<Problem::b_by_depth>(i).x);
    }
    float sums[own][own] = {};
    const int own_row = static_cast<int>(threadIdx.x) / (tile / own) * own;
    const int own_column = static_cast<int>(threadIdx.x) % (tile / own) * own;
    const Index end = min(extent.k, (slice + 1) * slice_depths);
    for (Index first = slice * slice_depths; first < end; first += depth) {
#pragma unroll
        for (int i = 0; i < loads; ++i) {
            const Load at_a = load_of<Problem::a_by_depth>(i), at_b = load_of<Problem::b_by_depth>(i);
            const bool has_a = first_row + at_a.x < extent.m && first + at_a.k < end;
            const bool has_b = first_column + at_b.x < extent.n && first + at_b.k < end;
            a[at_a.k * stride + at_a.x] = has_a ? problem.a(group, rows[i], problem.a_depth(first + at_a.k)) : 0.0f;
            b[at_b.k * stride + at_b.x] = has_b ? problem.b(group, problem.b_depth(first + at_b.k), columns[i]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < depth; ++k) {
            float own_a[own], own_b[own];
#pragma unroll
            for (int i = 0; i < own; ++i) {
                own_a[i] = a[k * stride + own_row + i];
                own_b[i] = b[k * stride + own_column + i];
            }
#pragma unroll
            for (int i = 0; i < own; ++i)
#pragma unroll
                for (int j = 0; j < own; ++j)
                    sums[i][j] += own_a[i] * own_b[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < own; ++i)
        for (int j = 0; j < own; ++j)
            if (first_row + own_row + i < extent.m && first_column + own_column + j < extent.n)
                problem.store(group, slice, first_row + own_row + i, first_column + own_column + j, sums[i][j]);
}

template <class Problem>
void run(const char* kernel, CudaStream& stream, const Problem& problem, const Extent& extent) {
    const Index tiles = cuda::divide_up(extent.m, tile) * cuda::divide_up(extent.n, tile);
    cuda::launch(kernel, stream, convolution_kernel<Problem>, cuda::blocks(tiles * extent.groups * extent.slices, 1),
                 threads, 0, problem, extent, extent.slice());
}

Extent weight_extent(const Convolution& shape) {
    return {shape.group_filters(), shape.taps(), shape.pixels(), shape.groups,
            std::clamp<Index>(shape.pixels() / least_slice, 1, most_slices)};
}

Index slices_bytes(const Convolution& shape) {
    return align_up(weight_extent(shape).slices * shape.filters * shape.taps() * 4);
}

} // namespace

void convolution_tiled(CudaStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y) {
    cuda::with_float_type("convolution", x.dtype, [&]<class T>() {
        const Forward<T> problem{sizes_of(shape), cuda::pointer<T>(x), cuda::pointer<T>(w), cuda::pointer<float>(bias),
                                 cuda::pointer<T>(y)};
        run("convolution", stream, problem, {shape.pixels(), shape.group_filters(), shape.taps(), shape.groups, 1});
    });
}

void convolution_input_gradient_tiled(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView w,
                                      View dx) {
    cuda::with_float_type("convolution_input_gradient", dy.dtype, [&]<class T>() {
        const InputGradient<T> problem{sizes_of(shape), cuda::pointer<T>(dy), cuda::pointer<T>(w),
                                       cuda::pointer<T>(dx)};
        run("convolution_input_gradient", stream, problem,
            {shape.batch * shape.height * shape.width, shape.group_channels(),
             shape.window.taps() * shape.group_filters(), shape.groups, 1});
    });
}

std::int64_t convolution_weight_gradient_tiled_workspace_bytes(const CudaStream& stream, const Convolution& shape) {
    const Index slices = weight_extent(shape).slices;
    if (slices == 1) return 0;
    return slices_bytes(shape) + sum_rows_workspace_bytes(stream, slices, shape.filters * shape.taps());
}

void convolution_weight_gradient_tiled(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                                       View workspace) {
    constexpr auto kernel = "convolution_weight_gradient";
    const Extent extent = weight_extent(shape);
    const bool sliced = extent.slices > 1;
    cuda::with_float_type(kernel, x.dtype, [&]<class T>() {
        float* const target = sliced ? static_cast<float*>(workspace.memory()) : cuda::pointer<float>(dw);
        run(kernel, stream, WeightGradient<T>{sizes_of(shape), cuda::pointer<T>(dy), cuda::pointer<T>(x), target},
            extent);
    });
    if (!sliced) return;
    const Index bytes = convolution_weight_gradient_tiled_workspace_bytes(stream, shape);
    const View slices(workspace.memory(), {extent.slices, shape.filters * shape.taps()}, DType::f32);
    const View rest(static_cast<std::byte*>(workspace.memory()) + slices_bytes(shape),
                    {(bytes - slices_bytes(shape)) / 4}, DType::f32);
    sum_rows(stream, slices, dw, rest);
}

} // namespace tessera::kernels
