// SPDX-License-Identifier: Apache-2.0
// Internal to the substitutes of cudart, cuBLAS and NCCL.
#pragma once
#include <cuda_runtime_api.h>
#include <cstdint>
#include <functional>
namespace emu {
// ordered: runs in issue order relative to other ordered ops of the process (NCCL: the ranks must agree).
cudaError_t enqueue_op(cudaStream_t s, std::function<void()> op, const char* what, bool ordered);
bool is_device(const void* p, size_t* left = nullptr);  // in a live allocation; left: bytes to its end
struct DeviceAccess { DeviceAccess(); ~DeviceAccess(); };  // opens device memory where $EMU_PROTECT is set
}
