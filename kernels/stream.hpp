// SPDX-License-Identifier: Apache-2.0
// Where work runs. A kernel is a set of overloads, one per kind of stream; the stream that is handed in chooses.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>

namespace tessera {

// Work on the calling thread and `threads` - 1 OpenMP helpers. Runs at once: when a kernel returns, its result is
// there. Kernels give the same bits for any number of threads.
class CpuStream {
public:
    explicit CpuStream(int threads = 1);

    int threads() const { return threads_; }
    std::string text() const; // "2 threads"
    void wait() const {}      // everything is done already
    void follow(const CpuStream&) const {}
    CpuStream sibling() const { return *this; }

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

// How products, convolutions and attention run on a GPU.
struct CudaOptions {
    bool tf32 = false; // f32 factors are rounded to 10 bits of mantissa: several times faster, sums stay f32
    // The first call of a shape times several algorithms, ours and the libraries', and keeps the fastest, so that bits
    // may differ between runs and between ranks.
    bool tune = false;
};

// Work in the order of one queue of a GPU. A kernel call returns at once; what it writes is there after wait(), or for
// the next call on the same stream. Move-only; empty after a move.
class CudaStream {
public:
    // A queue of its own on GPU number `device` of this host. Throws SystemError when it cannot be had.
    explicit CudaStream(int device, CudaOptions options = {});
    // Answers what a plan asks (workspaces, names), without a GPU; nothing runs on it.
    static CudaStream for_planning() { return CudaStream(); }

    CudaStream(CudaStream&& other) noexcept;
    CudaStream& operator=(CudaStream&& other) noexcept;
    ~CudaStream();

    int device() const;
    std::string text() const; // "GPU 0 (NVIDIA H200)"; for planning "a GPU"
    // Returns when all work so far is done. Throws SystemError when some of it failed, ConfigError when a kernel met a
    // token or class outside its range, with the message of the CPU's kernel.
    void wait() const;

    // What comes from now on waits, on the GPU, for what `other` has been given so far.
    void follow(const CudaStream& other) const;
    // Another queue on the same GPU: its work overlaps with this one's.
    CudaStream sibling() const;

    struct State; // kernels/cuda/device.hpp
    State& state() const { return *state_; }

private:
    CudaStream();

    std::unique_ptr<State> state_;
};

// The one place where a build with CUDA and one without differ in the sources of the house.
#if TESSERA_CUDA
using Stream = std::variant<CpuStream, CudaStream>;
inline constexpr bool built_with_cuda = true;
#else
using Stream = std::variant<CpuStream>;
inline constexpr bool built_with_cuda = false;
#endif

// GPUs of this host that this process may use; 0 without a driver, or in a build without CUDA.
int gpu_count();
// Streams on a GPU: see CudaStream. InternalError in a build without CUDA.
Stream gpu_stream(int device, CudaOptions options = {});
Stream planning_gpu_stream();

} // namespace tessera
