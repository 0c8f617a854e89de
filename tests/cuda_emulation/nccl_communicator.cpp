// SPDX-License-Identifier: Apache-2.0
// Waiting with a limit, agreement of the ranks, and errors that do not break the GPU's context.
#include "tests/cuda_emulation/nccl_communicator.hpp"

#include "tests/cuda_emulation/nccl_device.hpp"

#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

void ncclComm::fail(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (error_.empty()) error_ = why;
}

const std::string& ncclComm::error() {
    const std::lock_guard lock(mutex_);
    return error_;
}

namespace nccl_substitute {
namespace {

// What the ranks must agree on.
struct Signature {
    char call[24];
    std::uint64_t number;
    std::uint64_t count;
    int type;
    int operation;
    int root;
};

std::string text_of(const Signature& signature) {
    return std::string(signature.call) + " of " + std::to_string(signature.count) + " elements (type " +
           std::to_string(signature.type) + ", operation " + std::to_string(signature.operation) + ", root " +
           std::to_string(signature.root) + ")";
}

// A failure is NCCL's, not the GPU's: the stream goes on when the communicator is aborted. Where the caller itself runs
// the work, nobody else could abort, and it goes on at once.
void guarded(ncclComm& comm, std::thread::id caller, const std::function<void()>& work) {
    if (comm.error().empty()) {
        try {
            return work();
        } catch (const Aborted&) {
            return;
        } catch (const std::exception& error) {
            comm.fail(error.what());
        }
    }
    while (!comm.aborted && std::this_thread::get_id() != caller)
        std::this_thread::sleep_for(std::chrono::microseconds(100));
}

} // namespace

void check(int code, const char* call) {
    if (code != MPI_SUCCESS) throw std::runtime_error(std::string(call) + " failed in MPI");
}

void complete(const ncclComm& comm, std::vector<MPI_Request>& requests, std::vector<MPI_Status>& statuses,
              const char* call) {
    statuses.resize(requests.size());
    const double start = MPI_Wtime();
    for (int done = 0;;) {
        check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, statuses.data()), call);
        if (done != 0) return;
        if (comm.aborted) throw Aborted();
        const double waited = MPI_Wtime() - start;
        if (waited > comm.patience)
            throw std::runtime_error(std::string(call) + ": rank " + std::to_string(comm.rank) + " of " +
                                     std::to_string(comm.size) + " waits in vain for the others");
        if (waited > 1e-3) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

void agree(ncclComm& comm, const char* call, std::size_t count, ncclDataType_t type, int operation, int root) {
    struct Exchange {
        Signature own;
        std::vector<Signature> all;
    };
    auto exchange = std::make_unique<Exchange>();
    Signature& own = exchange->own;
    std::memset(&own, 0, sizeof own);
    std::strncpy(own.call, call, sizeof own.call - 1);
    own.number = comm.calls++;
    own.count = count;
    own.type = type;
    own.operation = operation;
    own.root = root;
    exchange->all.resize(static_cast<std::size_t>(comm.size));
    std::vector<MPI_Request> request(1);
    std::vector<MPI_Status> status;
    check(MPI_Iallgather(&own, sizeof own, MPI_BYTE, exchange->all.data(), sizeof own, MPI_BYTE, comm.group,
                         request.data()),
          call);
    try {
        complete(comm, request, status, call);
    } catch (...) {
        exchange.release(); // MPI may still read and write there
        throw;
    }
    for (std::size_t rank = 0; rank < exchange->all.size(); ++rank)
        if (std::memcmp(&exchange->all[rank], &own, sizeof own) != 0)
            throw std::runtime_error("collective number " + std::to_string(own.number) + " is " + text_of(own) +
                                     " on rank " + std::to_string(comm.rank) + ", but " + text_of(exchange->all[rank]) +
                                     " on rank " + std::to_string(rank));
}

ncclResult_t submit(ncclComm* comm, cudaStream_t stream, std::function<void()> work) {
    const auto caller = std::this_thread::get_id();
    const cudaError_t result =
        nccl_device::in_order(stream, [comm, caller, work = std::move(work)] { guarded(*comm, caller, work); });
    return result == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

} // namespace nccl_substitute
