// SPDX-License-Identifier: Apache-2.0
// CpuStream: a number of threads, and how a range is cut for them.
#include "kernels/stream.hpp"

#include <algorithm>
#include <fmt/core.h>
#include <omp.h>

namespace tessera {

CpuStream::CpuStream(int threads) : threads_(std::max(threads, 1)) { omp_set_num_threads(threads_); }

std::string CpuStream::text() const { return fmt::format("{} thread{}", threads_, threads_ == 1 ? "" : "s"); }

void CpuStream::parallel(std::int64_t count, std::int64_t grain,
                         const std::function<void(std::int64_t, std::int64_t)>& work) const {
    const std::int64_t pieces = std::clamp<std::int64_t>(count / std::max<std::int64_t>(grain, 1), 1, threads_);
    if (pieces == 1) {
        if (count > 0) work(0, count);
        return;
    }
#pragma omp parallel for num_threads(static_cast <int>(pieces)) schedule(static, 1)
    for (std::int64_t piece = 0; piece < pieces; ++piece)
        work(count * piece / pieces, count * (piece + 1) / pieces);
}

} // namespace tessera
