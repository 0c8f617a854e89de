// SPDX-License-Identifier: Apache-2.0
// Work that is the same at every call: a GPU records it once and replays the record in one launch (a CUDA graph).
#pragma once

#include "kernels/stream.hpp"

#include <functional>
#include <memory>

namespace tessera {

// One piece of such work. `work` puts calls on the stream, and on streams that follow it and that it follows in the
// end; memory, sizes and settings are the same each time, and nothing waits or allocates. Move-only.
class Replay {
public:
    Replay();
    Replay(Replay&&) noexcept;
    Replay& operator=(Replay&&) noexcept;
    ~Replay();

    void run(CpuStream&, const std::function<void()>& work) { work(); }
    // The first call runs the work as it is, so that libraries choose and prepare their algorithms; the second records
    // it. Throws SystemError when the work cannot be recorded.
    void run(CudaStream& stream, const std::function<void()>& work);

private:
    struct Record;
    std::unique_ptr<Record> record_;
    bool ran_ = false;
};

} // namespace tessera
