// SPDX-License-Identifier: Apache-2.0
// The emulated GPU as the substitute of NCCL sees it, and the two calls that only programs with NCCL make.
#include "tests/cuda_emulation/nccl_device.hpp"

#include "tests/cuda_emulation/runtime/runtime.hpp"

#include <cstdio>
#include <mpi.h>
#include <nccl.h>

namespace nccl_device {

int version() { return NCCL_VERSION_CODE; }

cudaError_t in_order(cudaStream_t stream, std::function<void()> work) {
    return tessera::emulation::submit(stream, std::move(work), "NCCL", true);
}

void wait_for_all() { cudaDeviceSynchronize(); }

Input::Input(const void* device, std::size_t) : data_(static_cast<const std::byte*>(device)) {}

Output::Output(void* device, std::size_t) : data_(static_cast<std::byte*>(device)), device_(device) {}
void Output::finish() {}

} // namespace nccl_device

extern "C" {

// Two processes that use one number use one GPU, as on a host without CUDA_VISIBLE_DEVICES.
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
    std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", static_cast<unsigned>(device));
    return cudaSuccess;
}

// Where each stream has its thread (TESSERA_EMULATION_STREAMS=threads), MPI is called from several at once.
int MPI_Init_thread(int* argument_count, char*** arguments, int, int* provided) {
    return PMPI_Init_thread(argument_count, arguments, MPI_THREAD_MULTIPLE, provided);
}
}
