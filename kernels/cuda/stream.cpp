// SPDX-License-Identifier: Apache-2.0
// CudaStream, its memory, and copies between the host and it.
#include "kernels/check.hpp"
#include "kernels/copy.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <fmt/format.h>
#include <new>

namespace tessera {

void cuda::check(cudaError_t code, const char* call, std::int64_t bytes) {
    if (code == cudaSuccess) return;
    cudaGetLastError(); // an error that is no broken context is forgotten with this
    const char* text = cudaGetErrorString(code);
    throw SystemError(bytes > 0 ? fmt::format("{} of {} bytes failed: {}", call, bytes, text)
                                : fmt::format("{} failed: {}", call, text));
}

// Any error means that there is none: without a driver it is cudaErrorInsufficientDriver.
int gpu_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();
    return 0;
}

CudaStream::State::State(int number, CudaOptions chosen) : device(number), options(chosen) {
    cuda::check(cudaSetDevice(device), "cudaSetDevice");
    cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    void* memory = nullptr;
    cuda::check(cudaHostAlloc(&memory, sizeof(cuda::Fault), cudaHostAllocMapped), "cudaHostAlloc", sizeof(cuda::Fault));
    fault = new (memory) cuda::Fault;
}

CudaStream::State::~State() {
    cudaStreamSynchronize(stream); // a failed kernel is reported by wait(), or not at all
    products.reset();
    cudaFreeHost(fault);
    cudaStreamDestroy(stream);
}

CudaStream::CudaStream() = default;
CudaStream::CudaStream(int device, CudaOptions options) : state_(std::make_unique<State>(device, options)) {}
CudaStream::CudaStream(CudaStream&&) noexcept = default;
CudaStream& CudaStream::operator=(CudaStream&&) noexcept = default;
CudaStream::~CudaStream() = default;

int CudaStream::device() const { return state_->device; }

void CudaStream::wait() const {
    cuda::check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize");
    cuda::Fault& fault = *state_->fault;
    if (fault.kind == cuda::Fault::none) return;
    const char* name = fault.kind == cuda::Fault::token ? "token" : "target";
    const std::string text = kernels::outside_vocabulary(name, fault.number, fault.position, fault.size);
    fault = cuda::Fault();
    throw ConfigError(text);
}

Buffer allocate(const CudaStream& stream, std::int64_t bytes) {
    if (bytes == 0) return {};
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, static_cast<std::size_t>(bytes)), "cudaMalloc", bytes);
    Buffer buffer(
        memory, bytes, [](void* data) { cudaFree(data); }, memory);
    cuda::check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream.state().stream), "cudaMemsetAsync");
    return buffer;
}

namespace kernels {
namespace {

void copy_bytes(const CudaStream& stream, const char* kernel, ConstView from, View to, cudaMemcpyKind kind) {
    check_count(kernel, "the result", to, from.count());
    if (from.dtype != to.dtype)
        throw InternalError(fmt::format("{}: from {} to {}", kernel, name_of(from.dtype), name_of(to.dtype)));
    const auto bytes = static_cast<std::size_t>(from.bytes());
    if (bytes == 0) return;
    cuda::check(cudaMemcpyAsync(to.memory(), from.data, bytes, kind, stream.state().stream), "cudaMemcpyAsync",
                from.bytes());
}

} // namespace

void upload(CudaStream& stream, ConstView host, View y) {
    copy_bytes(stream, "upload", host, y, cudaMemcpyHostToDevice);
    stream.wait();
}

void download(CudaStream& stream, ConstView x, View host) {
    copy_bytes(stream, "download", x, host, cudaMemcpyDeviceToHost);
    stream.wait();
}

} // namespace kernels
} // namespace tessera
