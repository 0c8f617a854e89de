// SPDX-License-Identifier: Apache-2.0
// What the substitute of NCCL needs of a GPU. Two versions: nccl_device.cpp for the emulation, whose device memory the
// host reads as it lies, and nccl_over_mpi/device.cpp for a real one, through copies in host memory.
#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <functional>
#include <vector>

namespace nccl_device {

int version(); // what ncclGetVersion answers: 0 where ranks may share a GPU

// Runs the work in the order of the stream, and of all such work of the process.
cudaError_t in_order(cudaStream_t stream, std::function<void()> work);
// Waits for all work of the process.
void wait_for_all();

// Bytes of device memory to read, there when the constructor returns.
class Input {
public:
    Input(const void* device, std::size_t bytes);
    const std::byte* data() const { return data_; }

private:
    std::vector<std::byte> copy_;
    const std::byte* data_;
};

// Room for bytes of device memory, which hold them after finish().
class Output {
public:
    Output(void* device, std::size_t bytes);
    std::byte* data() { return data_; }
    void finish();

private:
    std::vector<std::byte> copy_;
    std::byte* data_;
    void* device_;
};

} // namespace nccl_device
