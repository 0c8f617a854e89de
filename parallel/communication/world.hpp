// SPDX-License-Identifier: Apache-2.0
// MPI from MPI_Init_thread to MPI_Finalize as one object: who started us, how many we are, and on which hosts.
#pragma once

#include "parallel/communication/process_group.hpp"

#include <functional>
#include <memory>
#include <string>

namespace tessera {

// Constructed once, by the command that needs it (start_world), and kept by the launcher's Process until main returns:
// it outlives an exception of the command, which main answers with abort(). Where one destroys it while it passes,
// MPI_Finalize is skipped, which would wait for ranks that are still in a collective. MPI calls come from one thread at
// a time.
class World {
public:
    // Throws ConfigError when a launcher started several ranks of which MPI sees one only, SystemError when MPI fails.
    World();
    ~World();
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    int rank() const { return group_->rank(); }
    int size() const { return group_->size(); }
    int local_rank() const { return local_rank_; } // among the ranks on this host
    int local_size() const { return local_size_; }
    const std::string& host() const { return host_; }

    const ProcessGroup& group() const { return *group_; }

    [[noreturn]] void abort(int code); // ends all ranks; `code` becomes the job's exit code

private:
    int exceptions_at_start_;
    int local_rank_ = 0;
    int local_size_ = 1;
    std::string host_;
    std::unique_ptr<ProcessGroup> group_;
};

// Ends MPI as a rank that believes the run to be over, and leaves with code 0, wherever the others are. Open MPI waits
// in MPI_Finalize for all ranks. For tests of who notices.
[[noreturn]] void leave_early();

// Throws ConfigError when the environment of a launcher (mpirun, srun) tells of more ranks than the one MPI sees:
// "srun started 4 tasks, but MPI sees 1: use srun --mpi=pmix". `environment` answers like getenv.
void check_launcher(int mpi_size, const std::function<const char*(const char*)>& environment);

} // namespace tessera
