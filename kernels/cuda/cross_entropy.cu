// SPDX-License-Identifier: Apache-2.0
// Cross entropy on the GPU. A warp or a block, as the row's length says, reads a row once for its maximum and sum
// (Milakov and Gimelshein 2018) and once more, out of the cache, for the gradient.
#include "kernels/cross_entropy.hpp"
#include "kernels/cuda/cross_entropy_row.cuh"

namespace tessera::kernels {
namespace {

// dlogits may be null: losses alone.
template <class T, int team> __global__ void __launch_bounds__(cuda::threads_of_team<team>)
    cross_entropy_kernel(T* logits, const std::int32_t* __restrict__ targets, const float* __restrict__ scale,
                         std::int64_t rows, std::int64_t columns, std::int64_t classes, bool vectors,
                         float* __restrict__ losses, T* dlogits, cuda::Fault* fault) {
    const int thread = static_cast<int>(threadIdx.x) % team;
    const std::int64_t r = cuda::row_of_team<team>();
    if (r >= rows) return;
    const cuda::LogitRow<T> row(logits, r, columns, classes, vectors);
    const cuda::LogitRow<T> gradient(dlogits == nullptr ? logits : dlogits, r, columns, classes, vectors);
    if (dlogits != nullptr)
        for (std::int64_t c = classes + thread; c < columns; c += team)
            gradient.element[c] = cuda::from_float<T>(0);
    const std::int32_t target = targets[r];
    const bool known = target >= 0 && target < classes;
    if (!known) {
        if (target != ignore_index && thread == 0) cuda::report(fault, cuda::Fault::target, target, r, classes);
        if (thread == 0) losses[r] = 0;
        if (dlogits != nullptr) cuda::write_logit_zeros<team>(gradient, thread);
        return;
    }
    const float logit = cuda::to_float(row.element[target]); // before the gradient overwrites it
    const cuda::LogitStatistics statistics = cuda::statistics_of<team>(row, thread);
    if (thread == 0) losses[r] = logf(statistics.sum) + (statistics.maximum - logit);
    if (dlogits != nullptr) cuda::write_logit_gradient<team>(row, gradient, thread, target, statistics, *scale);
}

void run(CudaStream& stream, const char* kernel, std::int64_t classes, ConstView logits, ConstView targets,
         ConstView scale, View losses, View dlogits) {
    const std::int64_t rows = targets.count();
    const std::int64_t columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes(kernel, classes, columns);
    check_count(kernel, "logits", logits, rows * columns);
    check_count(kernel, "losses", losses, rows);
    if (dlogits) check_count(kernel, "dlogits", dlogits, logits.count());
    cuda::with_float_type(kernel, logits.dtype, [&]<class T>() {
        cuda::with_logit_team(classes, [&]<int team>() {
            cuda::launch(kernel, stream, cross_entropy_kernel<T, team>, cuda::blocks_of_teams<team>(rows),
                         cuda::threads_of_team<team>, 0, const_cast<T*>(cuda::pointer<T>(logits)),
                         cuda::pointer<std::int32_t>(targets), cuda::pointer<float>(scale), rows, columns, classes,
                         cuda::aligned({logits.data, dlogits.data}), cuda::pointer<float>(losses),
                         cuda::pointer<T>(dlogits), stream.state().fault);
        });
    });
}

} // namespace

void cross_entropy(CudaStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View losses) {
    run(stream, "cross_entropy", classes, logits, targets, {}, losses, {});
}

void cross_entropy_with_gradient(CudaStream& stream, std::int64_t classes, ConstView logits, ConstView targets,
                                 ConstView scale, View losses, View dlogits) {
    check_count("cross_entropy_with_gradient", "scale", scale, 1);
    run(stream, "cross_entropy_with_gradient", classes, logits, targets, scale, losses, dlogits);
}

} // namespace tessera::kernels
