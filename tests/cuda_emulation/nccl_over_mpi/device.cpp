// SPDX-License-Identifier: Apache-2.0
// A real GPU as the substitute of NCCL sees it: everything goes through the host, and work runs inside the call.
// Several ranks can share one GPU so, which NCCL refuses.
#include "tests/cuda_emulation/nccl_device.hpp"

#include <stdexcept>

namespace nccl_device {
namespace {

void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    const cudaError_t result = cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
    if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

} // namespace

int version() { return 0; }

cudaError_t in_order(cudaStream_t stream, std::function<void()> work) {
    const cudaError_t result = cudaStreamSynchronize(stream);
    if (result == cudaSuccess) work();
    return result;
}

void wait_for_all() { cudaDeviceSynchronize(); }

Input::Input(const void* device, std::size_t bytes) : copy_(bytes), data_(copy_.data()) {
    copy(copy_.data(), device, bytes);
}

Output::Output(void* device, std::size_t bytes) : copy_(bytes), data_(copy_.data()), device_(device) {}
void Output::finish() { copy(device_, copy_.data(), copy_.size()); }

} // namespace nccl_device
