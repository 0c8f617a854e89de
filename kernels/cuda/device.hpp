// SPDX-License-Identifier: Apache-2.0
// What a CudaStream holds, and the checked call of the CUDA runtime. For the host code of this folder and of the NCCL
// communicator only.
#pragma once

#include "kernels/library_choices.hpp"

#include <cstdint>
#include <cuda_runtime_api.h>
#include <memory>
#include <set>

namespace tessera {

namespace cuda {

// Throws SystemError "cudaMalloc of 4096 bytes failed: out of memory"; `bytes` 0: without them.
void check(cudaError_t code, const char* call, std::int64_t bytes = 0);

// Written by the first kernel that meets a number outside its range; lies in host memory that the GPU sees.
struct Fault {
    enum Kind : int { none, token, target };
    int kind = none;
    int number = 0;
    long long position = 0;
    long long size = 0;
};

// Remembers what a plan asks a workspace for; not of a stream for planning.
void note_asked(const CudaStream& stream, const ChoiceWords& asked);

} // namespace cuda

struct CudaStream::State {
    explicit State(CudaOptions wanted); // for planning: without a GPU
    State(int number, CudaOptions wanted);
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    int device = 0;
    CudaOptions options;
    bool is_for_planning = false;
    cudaStream_t stream = nullptr;
    cudaEvent_t uploaded = nullptr; // after the last upload that was begun
    cudaEvent_t passed = nullptr;   // where another stream begins to follow
    cuda::Fault* fault = nullptr;   // where the host and, unified addresses being what they are, the GPU find it
    std::shared_ptr<void> products; // of cublaslt.cpp: the library's handle and the algorithms chosen so far
    std::shared_ptr<void> graphs;   // of cudnn_plan.cpp: the same of plans

    // kernels/library_choices.hpp
    std::set<ChoiceWords> asked;
    LibraryChoices chosen;  // by first calls on this stream
    LibraryChoices settled; // of all ranks
    bool is_settled = false;
    std::string cudnn_trouble;
};

} // namespace tessera
