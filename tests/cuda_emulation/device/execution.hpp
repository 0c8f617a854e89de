// SPDX-License-Identifier: Apache-2.0
// The CUDA execution model for .cu files that g++ or clang++ compiles: threadIdx and its kin, shared memory, and what a
// launch hands over. Blocks run one after another; the threads of a block are fibers on one thread of the host,
// switched at barriers and warp collectives only.
#pragma once

#ifdef __CUDACC__
#error "this is for the host's compiler; nvcc has kernels/cuda/nvcc/cuda_language.cuh"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

// For functions of the emulation that kernels call: what they do to its own memory is not the kernel's doing.
#define TESSERA_UNCHECKED [[gnu::no_sanitize("thread")]]

namespace tessera::emulation {

struct Error : std::runtime_error { // of a kernel
    using std::runtime_error::runtime_error;
};

using Site = std::source_location; // of a barrier or collective: the default argument is the place of the call

struct Fiber;

struct Thread {
    Fiber* fiber = nullptr; // while it has begun and not returned
    uint3 index{};
    std::uint16_t number = 0; // in its block
    std::uint8_t lane = 0, warp = 0;
    bool done = false;
    const char* waits_in = nullptr; // the barrier or collective, where it waits in one
    Site site;
};

struct Block {
    uint3 index{};
    dim3 dimensions, grid;
    std::uint64_t number = 0; // in its grid
    int device = 0;
    std::uint32_t launch = 0;       // counts the launches of this thread of the host
    std::uint32_t epoch = 0;        // counts barriers of the block
    std::uint32_t alive = 0;        // threads that have not returned
    std::uint32_t arrived = 0;      // threads at the barrier
    int votes[2] = {};              // of __syncthreads_count and its kin, by epoch
    char* dynamic_shared = nullptr; // what the launch asked for
    std::uint32_t shared_limit = 0; // that static and dynamic memory together may take
};

extern constinit thread_local Thread* current_thread; // null outside of kernels
extern constinit thread_local Block current_block;

// Ends the kernel with an Error that names block and thread; outside of a kernel throws it.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// The array that a TESSERA_SHARED declares; `key` is the declaration's own.
void* static_shared(const void* key, std::size_t bytes, std::size_t alignment);

// A kernel with its arguments.
struct Kernel {
    virtual ~Kernel() = default;
    virtual void call() const = 0; // one thread of it
    virtual std::size_t bytes() const = 0;
};

template <class... Parameters> class KernelCall final : public Kernel {
public:
    template <class... Arguments> KernelCall(void (*kernel)(Parameters...), Arguments&&... arguments)
        : kernel_(kernel), arguments_(static_cast<Parameters>(arguments)...) {}
    void call() const override { std::apply(kernel_, arguments_); }
    std::size_t bytes() const override { return sizeof *this; }

private:
    void (*kernel_)(Parameters...);
    std::tuple<std::remove_cv_t<Parameters>...> arguments_;
};

struct Shape { // of a launch
    dim3 grid, block;
    std::size_t shared_bytes = 0; // dynamic
};

// Runs all blocks, on the calling thread. Throws Error.
void run_grid(const Shape& shape, std::uint32_t shared_limit, const Kernel& kernel);

// Puts the kernel on the stream; `function` is what cudaFuncSetAttribute knows it by.
cudaError_t launch(const void* function, const Shape& shape, cudaStream_t stream, std::shared_ptr<const Kernel> kernel);

// What the checker is told; nothing where it is not linked in. `code` is the kernel's instruction behind the access.
enum class Access : std::uint8_t { read, write, atomic };
struct Watch {
    void (*access)(const void* memory, std::size_t bytes, Access access, const void* code) = nullptr;
    void (*fence)() = nullptr;
};
extern constinit Watch watch;

} // namespace tessera::emulation

#define threadIdx (::tessera::emulation::current_thread->index)
#define blockIdx (::tessera::emulation::current_block.index)
#define blockDim (::tessera::emulation::current_block.dimensions)
#define gridDim (::tessera::emulation::current_block.grid)
#define __launch_bounds__(...)
inline constexpr int warpSize = 32;

// Else such variables would quietly become the thread's own.
#undef __shared__
#undef __constant__
#define __shared__ static_assert(false, "shared memory is declared with TESSERA_SHARED");
#define __constant__ static_assert(false, "the emulation has no constant memory");

#define TESSERA_SHARED(type, name, ...)                                                                                \
    typedef type name##_type __VA_ARGS__;                                                                              \
    static char name##_key;                                                                                            \
    name##_type& name = *static_cast<name##_type*>(                                                                    \
        ::tessera::emulation::static_shared(&name##_key, sizeof(name##_type), alignof(name##_type)))
#define TESSERA_DYNAMIC_SHARED(type, name)                                                                             \
    type* const name = reinterpret_cast<type*>(::tessera::emulation::current_block.dynamic_shared)
