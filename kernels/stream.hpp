// SPDX-License-Identifier: Apache-2.0
// Where work runs. A kernel is a set of overloads, one per kind of stream; the stream that is handed in chooses.
#pragma once

#include <cstdint>
#include <functional>
#include <variant>

namespace tessera {

// Work on the calling thread and `threads` - 1 OpenMP helpers. Runs at once: when a kernel returns, its result is
// there. Kernels give the same bits for any number of threads.
class CpuStream {
public:
    explicit CpuStream(int threads = 1);

    int threads() const { return threads_; }

    using Pieces = std::function<void(std::int64_t begin, std::int64_t end)>;
    // Calls work(begin, end) for pieces that cover [0, count) once each; pieces hold at least `grain` items (but the
    // last). How the range is cut depends on the number of threads, so `work` must give the same bits however it is
    // cut.
    void parallel(std::int64_t count, std::int64_t grain, const Pieces& work) const;
    template <class Work> void parallel(std::int64_t count, std::int64_t grain, const Work& work) const {
        parallel(count, grain, Pieces(std::cref(work))); // a copy of many captures would allocate
    }

private:
    int threads_;
};

using Stream = std::variant<CpuStream>;

} // namespace tessera
