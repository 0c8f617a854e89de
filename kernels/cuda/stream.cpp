// SPDX-License-Identifier: Apache-2.0
// CudaStream, its memory, and copies between the host and it.
#include "kernels/check.hpp"
#include "kernels/copy.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <cstring>
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

Stream gpu_stream(int device, CudaOptions options) { return CudaStream(device, options); }
Stream planning_gpu_stream() { return CudaStream::for_planning(); }
Stream planning_gpu_stream(CudaOptions options) {
    CudaStream stream = CudaStream::for_planning();
    stream.state().options = options;
    return stream;
}

CudaStream::State::State(CudaOptions wanted) : options(wanted), is_for_planning(true) {}

CudaStream::State::State(int number, CudaOptions wanted) : device(number), options(wanted) {
    int count = 0;
    if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess || count == 0) {
        cudaGetLastError();
        throw SystemError(fmt::format("there is no GPU: {}", cudaGetErrorString(code)));
    }
    cuda::check(cudaSetDevice(device), "cudaSetDevice");
    cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t* event : {&uploaded, &passed})
        cuda::check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    void* memory = nullptr;
    cuda::check(cudaHostAlloc(&memory, sizeof(cuda::Fault), cudaHostAllocMapped), "cudaHostAlloc", sizeof(cuda::Fault));
    fault = new (memory) cuda::Fault;
}

CudaStream::State::~State() {
    if (is_for_planning) return;
    cudaStreamSynchronize(stream); // a failed kernel is reported by wait(), or not at all
    products.reset();
    graphs.reset();
    cudaFreeHost(fault);
    cudaEventDestroy(uploaded);
    cudaEventDestroy(passed);
    cudaStreamDestroy(stream);
}

CudaStream::CudaStream() : state_(std::make_unique<State>(CudaOptions())) {}
CudaStream::CudaStream(int device, CudaOptions options) : state_(std::make_unique<State>(device, options)) {}
CudaStream::CudaStream(CudaStream&&) noexcept = default;
CudaStream& CudaStream::operator=(CudaStream&&) noexcept = default;
CudaStream::~CudaStream() = default;

int CudaStream::device() const { return state_->device; }

std::string CudaStream::text() const {
    if (state_->is_for_planning) return "a GPU";
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, state_->device), "cudaGetDeviceProperties");
    return fmt::format("GPU {} ({})", state_->device, properties.name);
}

void CudaStream::follow(const CudaStream& other) const {
    cuda::check(cudaEventRecord(other.state_->passed, other.state_->stream), "cudaEventRecord");
    cuda::check(cudaStreamWaitEvent(state_->stream, other.state_->passed, 0), "cudaStreamWaitEvent");
}

CudaStream CudaStream::sibling() const { return CudaStream(state_->device, state_->options); }

void CudaStream::wait() const {
    cuda::check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize");
    cuda::Fault& fault = *state_->fault;
    if (fault.kind == cuda::Fault::none) return;
    const char* name = fault.kind == cuda::Fault::token ? "token" : "target";
    const std::string text = kernels::outside_vocabulary(name, fault.number, fault.position, fault.size);
    fault = cuda::Fault();
    throw ConfigError(text);
}

std::int64_t free_bytes(const CudaStream&) {
    std::size_t available = 0, total = 0;
    cuda::check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
    return static_cast<std::int64_t>(available);
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

Buffer allocate_host(const CudaStream&, std::int64_t bytes) {
    if (bytes == 0) return {};
    void* memory = nullptr;
    cuda::check(cudaHostAlloc(&memory, static_cast<std::size_t>(bytes), cudaHostAllocDefault), "cudaHostAlloc", bytes);
    std::memset(memory, 0, static_cast<std::size_t>(bytes));
    return Buffer(
        memory, bytes, [](void* data) { cudaFreeHost(data); }, memory);
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

void begin_upload(CudaStream& stream, ConstView host, View y) {
    copy_bytes(stream, "begin_upload", host, y, cudaMemcpyHostToDevice);
    cuda::check(cudaEventRecord(stream.state().uploaded, stream.state().stream), "cudaEventRecord");
}

void end_uploads(CudaStream& stream) {
    cuda::check(cudaEventSynchronize(stream.state().uploaded), "cudaEventSynchronize");
}

void download(CudaStream& stream, ConstView x, View host) {
    copy_bytes(stream, "download", x, host, cudaMemcpyDeviceToHost);
    stream.wait();
}

} // namespace kernels
} // namespace tessera
