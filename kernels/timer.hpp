// SPDX-License-Identifier: Apache-2.0
// How long work on a stream took: marks in its order, and the seconds between them.
#pragma once

#include "kernels/stream.hpp"

#include <memory>
#include <vector>

namespace tessera {

// The stream outlives its timer.
class Timer {
public:
    virtual ~Timer() = default;

    // Notes the time at which all work that the stream has been given so far is done. On a GPU the call returns at
    // once, and costs the stream about a microsecond.
    virtual void mark() = 0;
    // Waits for the last mark; the seconds between neighbouring marks, which are then forgotten. Resolution: half a
    // microsecond on a GPU.
    virtual std::vector<double> take() = 0;
};

std::unique_ptr<Timer> make_timer(const CpuStream& stream);
std::unique_ptr<Timer> make_timer(const CudaStream& stream);

} // namespace tessera
