// SPDX-License-Identifier: Apache-2.0
// Counts of classes on the GPU: a thread for each row finds its place, a thread for each count goes through the rows,
// so that no two add to one number.
#include "kernels/classification.hpp"

#include "kernels/cuda/launch.cuh"

#include <limits>

namespace tessera::kernels {
namespace {

constexpr int threads = 128;
constexpr float infinity = std::numeric_limits<float>::infinity();

__device__ __forceinline__ std::int64_t index_of_thread() {
    return static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
}

template <class T> __global__ void __launch_bounds__(threads)
    predict_kernel(const T* __restrict__ logits, std::int64_t classes, std::int64_t rows, std::int64_t columns,
                   std::int32_t* __restrict__ predicted) {
    const std::int64_t r = index_of_thread();
    if (r >= rows) return;
    float largest = -infinity;
    int place = 0;
    for (std::int64_t c = 0; c < classes; ++c) {
        const float logit = cuda::to_float(logits[r * columns + c]);
        if (!(logit > largest)) continue;
        largest = logit;
        place = static_cast<int>(c);
    }
    predicted[r] = place;
}

template <class T> __global__ void __launch_bounds__(threads)
    bin_kernel(const T* __restrict__ logits, std::int64_t most, std::int64_t rows, std::int64_t columns,
               std::int32_t* __restrict__ bins) {
    const std::int64_t r = index_of_thread();
    if (r >= rows) return;
    const float score = cuda::to_float(logits[r * columns + 1]) - cuda::to_float(logits[r * columns]);
    const float bin = (score + score_limit) * (static_cast<float>(most) / (2 * score_limit));
    bins[r] = static_cast<std::int32_t>(fminf(static_cast<float>(most - 1), bin > 0 ? bin : 0.0f));
}

// counts: (kinds, columns).
__global__ void __launch_bounds__(threads)
    count_kernel(const std::int32_t* __restrict__ targets, const std::int32_t* __restrict__ places, std::int64_t rows,
                 std::int64_t count, std::int64_t columns, float* __restrict__ counts) {
    const std::int64_t i = index_of_thread();
    if (i >= count) return;
    const std::int64_t kind = i / columns, place = i % columns;
    int found = 0;
    for (std::int64_t r = 0; r < rows; ++r)
        found += targets[r] == kind && places[r] == place ? 1 : 0;
    counts[i] = static_cast<float>(found);
}

template <class T> __global__ void __launch_bounds__(threads)
    top_k_kernel(const T* __restrict__ logits, const std::int32_t* __restrict__ targets, std::int64_t classes,
                 std::int64_t k, std::int64_t rows, std::int64_t columns, float* __restrict__ hits) {
    const std::int64_t r = index_of_thread();
    if (r >= rows) return;
    const std::int32_t target = targets[r];
    if (target < 0 || target >= classes) {
        hits[r] = 0;
        return;
    }
    const float wanted = cuda::to_float(logits[r * columns + target]);
    std::int64_t before = 0;
    for (std::int64_t c = 0; c < classes; ++c) {
        const float logit = cuda::to_float(logits[r * columns + c]);
        before += logit > wanted || (logit == wanted && c < target) ? 1 : 0;
    }
    hits[r] = before < k && wanted == wanted ? 1.0f : 0.0f;
}

void count(CudaStream& stream, ConstView targets, ConstView places, std::int64_t kinds, View counts) {
    cuda::launch("count_places", stream, count_kernel, cuda::blocks(counts.count(), threads), threads, 0,
                 cuda::pointer<std::int32_t>(targets), cuda::pointer<std::int32_t>(places), targets.count(),
                 counts.count(), counts.count() / kinds, cuda::pointer<float>(counts));
}

} // namespace

void confusion(CudaStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View predicted,
               View counts) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes("confusion", classes, columns);
    check_count("confusion", "logits", logits, rows * columns);
    check_count("confusion", "predicted", predicted, rows);
    check_count("confusion", "counts", counts, classes * classes);
    cuda::with_float_type("confusion", logits.dtype, [&]<class T>() {
        cuda::launch("confusion", stream, predict_kernel<T>, cuda::blocks(rows, threads), threads, 0,
                     cuda::pointer<T>(logits), classes, rows, columns, cuda::pointer<std::int32_t>(predicted));
    });
    count(stream, targets, predicted, classes, counts);
}

void top_k_hits(CudaStream& stream, std::int64_t classes, std::int64_t k, ConstView logits, ConstView targets,
                View hits) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes("top_k_hits", classes, columns);
    check_count("top_k_hits", "logits", logits, rows * columns);
    check_count("top_k_hits", "hits", hits, rows);
    cuda::with_float_type("top_k_hits", logits.dtype, [&]<class T>() {
        cuda::launch("top_k_hits", stream, top_k_kernel<T>, cuda::blocks(rows, threads), threads, 0,
                     cuda::pointer<T>(logits), cuda::pointer<std::int32_t>(targets), classes, k, rows, columns,
                     cuda::pointer<float>(hits));
    });
}

void score_counts(CudaStream& stream, ConstView logits, ConstView targets, View bins, View counts) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? 2 : logits.count() / rows;
    check_row_classes("score_counts", 2, columns);
    check_count("score_counts", "logits", logits, rows * columns);
    check_count("score_counts", "bins", bins, rows);
    cuda::with_float_type("score_counts", logits.dtype, [&]<class T>() {
        cuda::launch("score_counts", stream, bin_kernel<T>, cuda::blocks(rows, threads), threads, 0,
                     cuda::pointer<T>(logits), counts.count() / 2, rows, columns, cuda::pointer<std::int32_t>(bins));
    });
    count(stream, targets, bins, 2, counts);
}

} // namespace tessera::kernels
