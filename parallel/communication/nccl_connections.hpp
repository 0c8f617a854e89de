// SPDX-License-Identifier: Apache-2.0
// The NCCL communicators of one rank: made one after another, watched while the host waits, and ended together when one
// of them fails, since a kernel of one that never ends would also hold up the end of the others.
#pragma once

#include "kernels/stream.hpp"
#include "parallel/communication/communicator.hpp"
#include "parallel/communication/process_group.hpp"

#include <cstddef>
#include <cstdint>
#include <nccl.h>
#include <string>
#include <vector>

namespace tessera {

// Errors are LostErrors that name the axis, this rank, the call and what NCCL says.
class NcclConnections {
public:
    explicit NcclConnections(const CudaStream& stream);
    // Ends all connections: in order, which waits for the other ranks, or at once while an exception passes.
    ~NcclConnections();
    NcclConnections(const NcclConnections&) = delete;
    NcclConnections& operator=(const NcclConnections&) = delete;

    // Collective over the group. Returns the connection's number.
    std::size_t connect(const std::string& axis, const ProcessGroup& group);

    // Notes that a collective begins, for the errors.
    ncclComm_t begin(std::size_t number, const char* call, std::int64_t bytes);
    // Throws when `result`, of a call to NCCL in the collective begun last, is an error.
    void check(std::size_t number, ncclResult_t result);

    // Communicator::wait
    void wait(const CudaStream& stream, Seconds patience);

    // Ends all connections without waiting for anybody, when an exception is passing. Call it before memory of the GPU
    // is freed, which waits for all kernels.
    void abort_while_unwinding();

private:
    struct Call {
        std::int64_t number = 0; // 0: none
        const char* name = "";
        std::int64_t bytes = 0;
    };
    struct Connection {
        std::string axis;
        int rank;
        int size;
        ncclComm_t communicator = nullptr;
        Call first_open; // of those that no wait has seen the end of
        Call last;
    };

    static std::string place(const Connection& connection);
    static std::string open_calls(const Connection& connection);
    void look_for_errors();
    void abort();
    [[noreturn]] void fail(const std::string& why);

    int device_;
    int exceptions_at_start_;
    std::vector<Connection> connections_;
    std::string failure_; // why there are no connections any more
};

} // namespace tessera
