// SPDX-License-Identifier: Apache-2.0
// What a build without CUDA answers when it is asked for GPUs. CMake compiles it in no other.
#include "kernels/error.hpp"
#include "kernels/replay.hpp"
#include "kernels/stream.hpp"

namespace tessera {

int gpu_count() { return 0; }
Stream gpu_stream(int, CudaOptions) { throw InternalError("gpu_stream: built without CUDA"); }
Stream planning_gpu_stream() { throw InternalError("planning_gpu_stream: built without CUDA"); }

struct Replay::Record {};
Replay::Replay() = default;
Replay::Replay(Replay&&) noexcept = default;
Replay& Replay::operator=(Replay&&) noexcept = default;
Replay::~Replay() = default;

} // namespace tessera
