// SPDX-License-Identifier: Apache-2.0
// Statistics, their combination and the gradient of a shard of the vocabulary on the GPU.
#include "kernels/cross_entropy_shard.hpp"
#include "kernels/cuda/cross_entropy_row.cuh"

namespace tessera::kernels {
namespace {

// The three rows of statistics.
template <class T> struct Planes {
    T* maxima;
    T* sums;
    T* logits;
};
template <class T> __host__ __device__ Planes<T> planes(T* memory, std::int64_t rows) {
    return {memory, memory + rows, memory + 2 * rows};
}

// Of the columns of a shard, those behind the vocabulary are padding.
struct Columns {
    std::int64_t all;
    std::int64_t used;
};

template <class T, int team> __global__ void __launch_bounds__(cuda::threads_of_team<team>)
    shard_statistics_kernel(const T* __restrict__ logits, const std::int32_t* __restrict__ targets,
                            std::int64_t first_class, std::int64_t classes, std::int64_t rows, Columns columns,
                            bool vectors, Planes<float> to, cuda::Fault* fault) {
    const int thread = static_cast<int>(threadIdx.x) % team;
    const std::int64_t r = cuda::row_of_team<team>();
    if (r >= rows) return;
    const std::int32_t target = targets[r];
    cuda::LogitStatistics found;
    float logit = 0;
    if (target >= 0 && target < classes) {
        const cuda::LogitRow<const T> row(logits, r, columns.all, columns.used, vectors);
        const std::int64_t column = target - first_class;
        if (thread == 0 && column >= 0 && column < columns.used) logit = cuda::to_float(row.element[column]);
        found = cuda::statistics_of<team>(row, thread);
    } else if (target != ignore_index && thread == 0) {
        cuda::report(fault, cuda::Fault::target, target, r, classes);
    }
    if (thread != 0) return;
    to.maxima[r] = found.maximum;
    to.sums[r] = found.sum;
    to.logits[r] = logit;
}

constexpr int threads = 256;

__global__ void __launch_bounds__(threads)
    combine_kernel(const float* __restrict__ shards, std::int64_t count, std::int64_t rows, Planes<float> to) {
    const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (r >= rows) return;
    float high = cuda::lowest, sum = 0, logit = 0;
    for (std::int64_t s = 0; s < count; ++s)
        high = fmaxf(high, planes(shards + s * 3 * rows, rows).maxima[r]);
    for (std::int64_t s = 0; s < count; ++s) {
        const auto from = planes(shards + s * 3 * rows, rows);
        sum += from.sums[r] * __expf(from.maxima[r] - high);
        logit += from.logits[r];
    }
    to.maxima[r] = high;
    to.sums[r] = sum;
    to.logits[r] = logit;
}

// dlogits may be null: losses alone.
template <class T, int team> __global__ void __launch_bounds__(cuda::threads_of_team<team>)
    shard_gradient_kernel(T* logits, const std::int32_t* __restrict__ targets, std::int64_t first_class,
                          std::int64_t classes, const float* __restrict__ scale, Planes<const float> combined,
                          std::int64_t rows, Columns columns, bool vectors, float* __restrict__ losses, T* dlogits) {
    const int thread = static_cast<int>(threadIdx.x) % team;
    const std::int64_t r = cuda::row_of_team<team>();
    if (r >= rows) return;
    const std::int32_t target = targets[r];
    const bool known = target >= 0 && target < classes;
    const cuda::LogitStatistics statistics{combined.maxima[r], combined.sums[r]};
    if (thread == 0) losses[r] = known ? logf(statistics.sum) + (statistics.maximum - combined.logits[r]) : 0.0f;
    if (dlogits == nullptr) return;
    const cuda::LogitRow<T> row(logits, r, columns.all, columns.used, vectors);
    const cuda::LogitRow<T> gradient(dlogits, r, columns.all, columns.used, vectors);
    for (std::int64_t c = columns.used + thread; c < columns.all; c += team)
        gradient.element[c] = cuda::from_float<T>(0);
    if (known)
        cuda::write_logit_gradient<team>(row, gradient, thread, target - first_class, statistics, *scale);
    else
        cuda::write_logit_zeros<team>(gradient, thread);
}

Columns columns_of(const char* kernel, const ConstView& logits, const ConstView& targets,
                   const VocabularyShard& shard) {
    const std::int64_t rows = targets.count();
    const std::int64_t columns = rows == 0 ? 0 : logits.count() / rows;
    check_count(kernel, "logits", logits, rows * columns);
    return {columns, classes_in(kernel, shard, columns)};
}

} // namespace

void cross_entropy_shard_statistics(CudaStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                    View statistics) {
    constexpr const char* kernel = "cross_entropy_shard_statistics";
    const std::int64_t rows = targets.count();
    const Columns columns = columns_of(kernel, logits, targets, shard);
    check_count(kernel, "statistics", statistics, 3 * rows);
    cuda::with_float_type(kernel, logits.dtype, [&]<class T>() {
        cuda::with_logit_team(columns.all, [&]<int team>() {
            cuda::launch(kernel, stream, shard_statistics_kernel<T, team>, cuda::blocks_of_teams<team>(rows),
                         cuda::threads_of_team<team>, 0, cuda::pointer<T>(logits), cuda::pointer<std::int32_t>(targets),
                         shard.first, shard.classes, rows, columns, cuda::aligned({logits.data}),
                         planes(cuda::pointer<float>(statistics), rows), stream.state().fault);
        });
    });
}

void combine_cross_entropy_shards(CudaStream& stream, ConstView shards, View combined) {
    constexpr const char* kernel = "combine_cross_entropy_shards";
    const std::int64_t rows = combined.count() / 3;
    const std::int64_t count = rows == 0 ? 0 : shards.count() / (3 * rows);
    check_count(kernel, "combined", combined, 3 * rows);
    check_count(kernel, "shards", shards, 3 * rows * count);
    cuda::launch(kernel, stream, combine_kernel, cuda::blocks(rows, threads), threads, 0, cuda::pointer<float>(shards),
                 count, rows, planes(cuda::pointer<float>(combined), rows));
}

void cross_entropy_shard_gradient(CudaStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                  ConstView scale, ConstView combined, View losses, View dlogits) {
    constexpr const char* kernel = "cross_entropy_shard_gradient";
    const std::int64_t rows = targets.count();
    const Columns columns = columns_of(kernel, logits, targets, shard);
    check_count(kernel, "the combined statistics", combined, 3 * rows);
    check_count(kernel, "losses", losses, rows);
    if (dlogits) {
        check_count(kernel, "dlogits", dlogits, logits.count());
        check_count(kernel, "scale", scale, 1);
    }
    cuda::with_float_type(kernel, logits.dtype, [&]<class T>() {
        cuda::with_logit_team(columns.all, [&]<int team>() {
            cuda::launch(kernel, stream, shard_gradient_kernel<T, team>, cuda::blocks_of_teams<team>(rows),
                         cuda::threads_of_team<team>, 0, const_cast<T*>(cuda::pointer<T>(logits)),
                         cuda::pointer<std::int32_t>(targets), shard.first, shard.classes, cuda::pointer<float>(scale),
                         planes(cuda::pointer<float>(combined), rows), rows, columns,
                         cuda::aligned({logits.data, dlogits.data}), cuda::pointer<float>(losses),
                         cuda::pointer<T>(dlogits));
        });
    });
}

} // namespace tessera::kernels
