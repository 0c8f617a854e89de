// SPDX-License-Identifier: Apache-2.0
// A copy of what a rank saves, so that training can go on while the copy is written.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"
#include "kernels/memory.hpp"
#include "kernels/stream.hpp"

#include <vector>

namespace tessera {

inline constexpr Key<bool> checkpoint_asynchronous{
    "checkpoint.asynchronous", true,
    "save a copy in host memory beside the steps that follow; false: training stands still until it is on disk"};
inline constexpr Key<std::int64_t> checkpoint_interval{
    "checkpoint.interval", 500, "steps between checkpoints; 0: at the end only; -1: only when asked to stop"};

// Whether a run keeps a copy: what is saved beside training, and what lies on a GPU, is written from one.
bool keeps_copy(const Config& config, const Stream& stream);

class Snapshot {
public:
    // Bytes of memory for a copy of these parts.
    static std::int64_t bytes_for(const std::vector<TensorPart>& parts);

    // `memory`: of the host; it is written to here, so that no later copy waits for the system to find pages.
    Snapshot(Stream& stream, Buffer memory);

    // Copies the parts' data from where the stream works, after all its work, and lets the parts point to the copies.
    void take(std::vector<TensorPart>& parts);

    std::int64_t bytes() const { return memory_.bytes(); }

private:
    Stream& stream_;
    Buffer memory_;
};

} // namespace tessera
