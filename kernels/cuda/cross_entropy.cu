// SPDX-License-Identifier: Apache-2.0
// Cross entropy on the GPU. A warp or a block, as the row's length says, reads a row once for its maximum and sum
// (Milakov and Gimelshein 2018) and once more, out of the cache, for the gradient.
#include "kernels/cross_entropy.hpp"
#include "kernels/cuda/piece.cuh"

#include <limits>

namespace tessera::kernels {
namespace {

constexpr float lowest = std::numeric_limits<float>::lowest();
constexpr float infinity = std::numeric_limits<float>::infinity();

// A row of a matrix, in groups of 16 bytes. They are cut as in a matrix that starts at a multiple of 16 bytes, so that
// the order of a sum over them is the same wherever the matrix lies; the first and the last may be shared with the
// neighbours. `vectors`: the matrix does start there.
template <class T> struct Row {
    static constexpr int width = 16 / static_cast<int>(sizeof(T));

    T* element;
    std::int64_t count;
    int before; // elements of the first group that belong to the row before
    bool vectors;

    __device__ Row(T* matrix, std::int64_t row, std::int64_t columns, bool starts_at_16_bytes)
        : element(matrix + row * columns), count(columns), before(static_cast<int>(row * columns % width)),
          vectors(starts_at_16_bytes) {}

    __device__ __forceinline__ std::int64_t groups() const { return (before + count + width - 1) / width; }
    __device__ __forceinline__ std::int64_t first_of(std::int64_t group) const { return group * width - before; }
    __device__ __forceinline__ bool in_one_piece(std::int64_t first) const {
        return vectors && first >= 0 && first + width <= count;
    }
    // -infinity outside the row.
    __device__ __forceinline__ void load(std::int64_t group, float* to) const {
        const std::int64_t first = first_of(group);
        if (in_one_piece(first)) {
            const auto piece = cuda::load_piece<width>(element + first);
#pragma unroll
            for (int i = 0; i < width; ++i)
                to[i] = cuda::to_float(piece.element[i]);
        } else {
#pragma unroll
            for (int i = 0; i < width; ++i)
                to[i] = first + i >= 0 && first + i < count ? cuda::to_float(element[first + i]) : -infinity;
        }
    }
    __device__ __forceinline__ void store(std::int64_t group, const float* from) const {
        const std::int64_t first = first_of(group);
        if (in_one_piece(first)) {
            cuda::Piece<T, width> piece;
#pragma unroll
            for (int i = 0; i < width; ++i)
                piece.element[i] = cuda::from_float<T>(from[i]);
            cuda::store_piece(element + first, piece);
        } else {
#pragma unroll
            for (int i = 0; i < width; ++i)
                if (first + i >= 0 && first + i < count) element[first + i] = cuda::from_float<T>(from[i]);
        }
    }
};

// The largest of some logits, `lowest` at least, and the sum of exp(logit - maximum).
struct Statistics {
    float maximum = lowest;
    float sum = 0;

    template <int count> __device__ __forceinline__ void add(const float (&logits)[count]) {
        float high = maximum;
#pragma unroll
        for (int i = 0; i < count; ++i)
            high = fmaxf(high, logits[i]);
        float powers = 0;
#pragma unroll
        for (int i = 0; i < count; ++i)
            powers += __expf(logits[i] - high);
        sum = sum * __expf(maximum - high) + powers;
        maximum = high;
    }
};

__device__ __forceinline__ Statistics merged_in_warp(Statistics own) {
    const float high = cuda::warp_max(own.maximum);
    return {high, cuda::warp_sum(own.sum * __expf(own.maximum - high))};
}

// Over a block of whole warps; all have read what they read before.
__device__ __forceinline__ Statistics merged_in_block(Statistics own) {
    TESSERA_SHARED(float2, parts, [32]);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    own = merged_in_warp(own);
    if (lane == 0) parts[warp] = make_float2(own.maximum, own.sum);
    __syncthreads();
    const bool there = lane < static_cast<int>(blockDim.x) / 32;
    const float2 part = there ? parts[lane] : make_float2(lowest, 0);
    return merged_in_warp({part.x, part.y});
}

// By the `team` threads that share a row, `thread` being one of them. Called once in a kernel.
template <int team, class T> __device__ __forceinline__ Statistics statistics_of(const Row<T>& row, int thread) {
    constexpr int width = Row<T>::width;
    const std::int64_t groups = row.groups();
    Statistics own;
    for (std::int64_t group = thread; group < groups; group += 2 * team) {
        float logits[2 * width];
        row.load(group, logits);
        row.load(group + team, logits + width);
        own.add(logits);
    }
    if constexpr (team > 32) {
        return merged_in_block(own);
    } else {
        own = merged_in_warp(own);
        __syncwarp(); // as the block's barrier does
        return own;
    }
}

// to = scale * (exp(logit - maximum) / sum - (column == target)); `to` may be the logits' memory.
template <int team, class T> __device__ __forceinline__ void write_gradient(const Row<T>& row, const Row<T>& to,
                                                                            int thread, std::int64_t target,
                                                                            Statistics statistics, float scale) {
    constexpr int width = Row<T>::width;
    const std::int64_t groups = row.groups();
    const float factor = scale / statistics.sum;
    for (std::int64_t group = thread; group < groups; group += team) {
        float values[width];
        row.load(group, values);
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const float share = __expf(values[i] - statistics.maximum) * factor;
            values[i] = row.first_of(group) + i == target ? share - scale : share;
        }
        to.store(group, values);
    }
}

template <int team, class T> __device__ __forceinline__ void write_zeros(const Row<T>& to, int thread) {
    const float zeros[Row<T>::width] = {};
    const std::int64_t groups = to.groups();
    for (std::int64_t group = thread; group < groups; group += team)
        to.store(group, zeros);
}

template <int team> constexpr int threads_of = team == 32 ? 128 : team;

// dlogits may be null: losses alone.
template <class T, int team> __global__ void __launch_bounds__(threads_of<team>)
    cross_entropy_kernel(T* logits, const std::int32_t* __restrict__ targets, const float* __restrict__ scale,
                         std::int64_t rows, std::int64_t classes, bool vectors, float* __restrict__ losses, T* dlogits,
                         cuda::Fault* fault) {
    const int thread = static_cast<int>(threadIdx.x) % team;
    const std::int64_t r =
        static_cast<std::int64_t>(blockIdx.x) * (threads_of<team> / team) + static_cast<int>(threadIdx.x) / team;
    if (r >= rows) return;
    const Row<T> row(logits, r, classes, vectors);
    const Row<T> gradient(dlogits == nullptr ? logits : dlogits, r, classes, vectors);
    const std::int32_t target = targets[r];
    const bool known = target >= 0 && target < classes;
    if (!known) {
        if (target != ignore_index && thread == 0) cuda::report(fault, cuda::Fault::target, target, r, classes);
        if (thread == 0) losses[r] = 0;
        if (dlogits != nullptr) write_zeros<team>(gradient, thread);
        return;
    }
    const float logit = cuda::to_float(row.element[target]); // before the gradient overwrites it
    const Statistics statistics = statistics_of<team>(row, thread);
    if (thread == 0) losses[r] = logf(statistics.sum) + (statistics.maximum - logit);
    if (dlogits != nullptr) write_gradient<team>(row, gradient, thread, target, statistics, *scale);
}

// Calls work.template operator()<team>() with the number of threads for a row. Short rows get a warp each.
template <class Work> void with_team(std::int64_t classes, const Work& work) {
    if (classes <= 1024)
        work.template operator()<32>();
    else if (classes <= 8192)
        work.template operator()<128>();
    else
        work.template operator()<512>();
}

void run(CudaStream& stream, const char* kernel, ConstView logits, ConstView targets, ConstView scale, View losses,
         View dlogits) {
    const std::int64_t rows = targets.count();
    const std::int64_t classes = rows == 0 ? 0 : logits.count() / rows;
    check_count(kernel, "logits", logits, rows * classes);
    check_count(kernel, "losses", losses, rows);
    if (dlogits) check_count(kernel, "dlogits", dlogits, logits.count());
    cuda::with_float_type(kernel, logits.dtype, [&]<class T>() {
        with_team(classes, [&]<int team>() {
            cuda::launch(kernel, stream, cross_entropy_kernel<T, team>, cuda::blocks(rows, threads_of<team> / team),
                         threads_of<team>, 0, const_cast<T*>(cuda::pointer<T>(logits)),
                         cuda::pointer<std::int32_t>(targets), cuda::pointer<float>(scale), rows, classes,
                         cuda::aligned({logits.data, dlogits.data}), cuda::pointer<float>(losses),
                         cuda::pointer<T>(dlogits), stream.state().fault);
        });
    });
}

} // namespace

void cross_entropy(CudaStream& stream, ConstView logits, ConstView targets, View losses) {
    run(stream, "cross_entropy", logits, targets, {}, losses, {});
}

void cross_entropy_with_gradient(CudaStream& stream, ConstView logits, ConstView targets, ConstView scale, View losses,
                                 View dlogits) {
    check_count("cross_entropy_with_gradient", "scale", scale, 1);
    run(stream, "cross_entropy_with_gradient", logits, targets, scale, losses, dlogits);
}

} // namespace tessera::kernels
