// SPDX-License-Identifier: Apache-2.0
// Memory that all processes of a group on one host map: one window per rank, each allocated on its rank's own node.
#pragma once

#include "parallel/communication/process_group.hpp"

#include <cstddef>
#include <cstdint>

namespace tessera {

// Lies in an anonymous file that rank 0 makes and hands to the others: it has no name that a crash could leave behind,
// and the size of /dev/shm does not bound it. Zeroed; in huge pages where the system allows them for shared memory
// (/sys/kernel/mm/transparent_hugepage/shmem_enabled = advise).
class SharedRegion {
public:
    // Collective; `bytes` of this rank's window may differ from the others'. Throws SystemError on all ranks when one
    // fails.
    SharedRegion(const ProcessGroup& group, std::int64_t bytes);
    ~SharedRegion();
    SharedRegion(const SharedRegion&) = delete;
    SharedRegion& operator=(const SharedRegion&) = delete;

    std::byte* window(int rank) const { return data_ + rank * window_bytes_; }
    std::int64_t window_bytes() const { return window_bytes_; } // the largest rank's, in whole pages

private:
    void map(int file, int rank, std::int64_t bytes);
    void unmap();

    std::byte* data_ = nullptr;
    std::int64_t window_bytes_ = 0;
    std::int64_t bytes_ = 0;
};

} // namespace tessera
