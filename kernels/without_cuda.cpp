// SPDX-License-Identifier: Apache-2.0
// What a build without CUDA answers when it is asked for GPUs. CMake compiles it in no other.
#include "kernels/error.hpp"
#include "kernels/library_choices.hpp"
#include "kernels/replay.hpp"
#include "kernels/stream.hpp"

namespace tessera {

int gpu_count() { return 0; }
Stream gpu_stream(int, CudaOptions) { throw InternalError("gpu_stream: built without CUDA"); }
Stream planning_gpu_stream() { throw InternalError("planning_gpu_stream: built without CUDA"); }

Stream planning_gpu_stream(CudaOptions) { return planning_gpu_stream(); }
std::vector<ChoiceWords> asked_of_libraries(const Stream&) { return {}; }
LibraryChoices try_libraries(Stream&, std::span<const ChoiceWords>) { return {}; }
void settle_libraries(Stream&, const LibraryChoices&) {}
std::string cudnn_trouble(const Stream&) { return {}; }
std::string libraries_text(const Stream&) { return {}; }

struct Replay::Record {};
Replay::Replay() = default;
Replay::Replay(Replay&&) noexcept = default;
Replay& Replay::operator=(Replay&&) noexcept = default;
Replay::~Replay() = default;

} // namespace tessera
