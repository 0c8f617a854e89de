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

template <class T> __global__ void __launch_bounds__(threads)
    binary_kernel(const T* __restrict__ logits, const float* __restrict__ targets, std::int64_t rows,
                  std::int64_t outcomes, float* __restrict__ counts) {
    const std::int64_t i = index_of_thread();
    if (i >= 4 * outcomes) return;
    const std::int64_t k = i % outcomes, kind = i / outcomes;
    float found = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
        const bool there = targets[r * outcomes + k] > 0.5f, taken = cuda::to_float(logits[r * outcomes + k]) > 0;
        found += (there ? 2 : 0) + (taken ? 1 : 0) == kind ? 1.0f : 0.0f;
    }
    counts[i] = found;
}

template <class T> __global__ void __launch_bounds__(threads)
    place_kernel(const T* __restrict__ logits, const std::int32_t* __restrict__ labels,
                 const float* __restrict__ numbers, const std::int32_t* __restrict__ first, std::int64_t rows,
                 std::int64_t width, std::int64_t columns, std::int64_t count, std::int64_t to,
                 float* __restrict__ scores) {
    const std::int64_t i = index_of_thread();
    if (i >= count) return;
    const std::int64_t n = i / to - *first, c = i % to;
    float score = 0;
    if (n >= 0 && n < rows) {
        if (c < columns)
            score = cuda::to_float(logits[n * width + c]);
        else
            score = labels != nullptr
                        ? (labels[n] < 0 || labels[n] >= columns ? 0.0f : static_cast<float>(labels[n] + 1))
                        : numbers[n * columns + c - columns];
    }
    scores[i] = score;
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

void binary_counts(CudaStream& stream, ConstView logits, ConstView targets, View counts) {
    const std::int64_t outcomes = counts.count() / 4, rows = targets.count() / outcomes;
    check_count("binary_counts", "logits", logits, rows * outcomes);
    cuda::with_float_type("binary_counts", logits.dtype, [&]<class T>() {
        cuda::launch("binary_counts", stream, binary_kernel<T>, cuda::blocks(counts.count(), threads), threads, 0,
                     cuda::pointer<T>(logits), cuda::pointer<float>(targets), rows, outcomes,
                     cuda::pointer<float>(counts));
    });
}

void place_scores(CudaStream& stream, std::int64_t columns, ConstView logits, ConstView targets, ConstView first,
                  View scores) {
    const bool labels = targets.dtype == DType::i32;
    const std::int64_t rows = labels ? targets.count() : targets.count() / columns;
    const std::int64_t width = rows == 0 ? columns : logits.count() / rows, to = labels ? columns + 1 : 2 * columns;
    check_row_classes("place_scores", columns, width);
    check_count("place_scores", "logits", logits, rows * width);
    cuda::with_float_type("place_scores", logits.dtype, [&]<class T>() {
        cuda::launch("place_scores", stream, place_kernel<T>, cuda::blocks(scores.count(), threads), threads, 0,
                     cuda::pointer<T>(logits), labels ? cuda::pointer<std::int32_t>(targets) : nullptr,
                     labels ? nullptr : cuda::pointer<float>(targets), cuda::pointer<std::int32_t>(first), rows, width,
                     columns, scores.count(), to, cuda::pointer<float>(scores));
    });
}

} // namespace tessera::kernels
