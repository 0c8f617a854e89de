// SPDX-License-Identifier: Apache-2.0
// The communicator of ranks that reach each other's memory: processes of one host, or threads of one process.
#pragma once

#include "parallel/communication/communicator.hpp"
#include "parallel/communication/process_group.hpp"

#include <memory>
#include <vector>

namespace tessera {

// Collective; all ranks of the group must be on one host. Buffers from allocate() are read and written in place by
// their peers; others are staged through a small shared area, in pieces. Freeing such a buffer while a peer still has
// one from the same call is fine, using it in a collective is not. Throws SystemError where the host refuses shared
// memory.
std::unique_ptr<Communicator> make_shared_memory_communicator(ProcessGroup group);

// The ranks of threads of this process: every memory is within reach. Element r is for the thread that acts as rank r.
// `fail` makes all waiting and later calls throw SystemError.
class ThreadRanks {
public:
    explicit ThreadRanks(int ranks);
    ~ThreadRanks();
    Communicator& rank(int index) { return *communicators_.at(static_cast<std::size_t>(index)); }
    void fail();

private:
    struct Board;
    std::unique_ptr<Board> board_;
    std::vector<std::unique_ptr<Communicator>> communicators_;
};

} // namespace tessera
