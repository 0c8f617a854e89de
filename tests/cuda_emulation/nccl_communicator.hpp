// SPDX-License-Identifier: Apache-2.0
// A communicator of the substitute of NCCL: its MPI communicator, its error, and how work of it runs on a stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <functional>
#include <mpi.h>
#include <mutex>
#include <nccl.h>
#include <stdexcept>
#include <string>
#include <vector>

struct ncclComm {
    MPI_Comm group = MPI_COMM_NULL;
    int rank = 0;
    int size = 0;
    double patience = 60; // seconds to wait for other ranks
    std::uint64_t calls = 0;
    std::atomic<bool> aborted = false;

    void fail(const std::string& why);
    const std::string& error(); // never changes once it is there

private:
    std::mutex mutex_;
    std::string error_;
};

namespace nccl_substitute {

struct Aborted {};

// Throws when an MPI call has failed.
void check(int code, const char* call);

// Waits for the requests. Throws Aborted, or a sentence when the communicator's patience is over.
void complete(const ncclComm& comm, std::vector<MPI_Request>& requests, std::vector<MPI_Status>& statuses,
              const char* call);

// Throws when the ranks' collectives differ.
void agree(ncclComm& comm, const char* call, std::size_t count, ncclDataType_t type, int operation = 0, int root = 0);

// Runs the work in the stream's order; what it throws becomes the communicator's error.
ncclResult_t submit(ncclComm* comm, cudaStream_t stream, std::function<void()> work);

} // namespace nccl_substitute
