// SPDX-License-Identifier: Apache-2.0
// Starts and ends MPI, and compares what it sees with what the launcher says.
#include "parallel/communication/world.hpp"

#include "kernels/error.hpp"

#include <cstdlib>
#include <exception>
#include <execinfo.h>
#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

namespace tessera {
namespace {

int number(const char* text) { return text == nullptr ? 0 : std::atoi(text); }

// Open MPI spins while it waits. With more ranks than cores that makes a small all-reduce 500 times slower (8 ms, not
// 16 µs), and mpirun turns it off only where it knows that it oversubscribes. A person's own setting stands.
void yield_when_crowded() {
    if (number(std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE")) > sysconf(_SC_NPROCESSORS_ONLN))
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
}

// Open MPI prints a backtrace of a process that crashes, for which the C library loads the unwinder at the first time,
// and asks for memory. Who crashes in malloc would wait there for ever, with its launcher.
void load_unwinder() {
    void* here = nullptr;
    backtrace(&here, 1);
}

} // namespace

World::World() : exceptions_at_start_(std::uncaught_exceptions()) {
    yield_when_crowded();
    load_unwinder();
    int provided = 0;
    const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
    if (code != MPI_SUCCESS) throw SystemError(fmt::format("MPI_Init_thread failed with code {}", code));
    if (provided < MPI_THREAD_SERIALIZED)
        throw SystemError(fmt::format("this MPI gives thread level {}, but {} (MPI_THREAD_SERIALIZED) is needed",
                                      provided, MPI_THREAD_SERIALIZED));
    group_ = std::make_unique<ProcessGroup>(ProcessGroup::world());
    check_launcher(group_->size(), [](const char* name) { return std::getenv(name); });
    const ProcessGroup neighbours = group_->on_this_host();
    local_rank_ = neighbours.rank();
    local_size_ = neighbours.size();
    char name[MPI_MAX_PROCESSOR_NAME] = "";
    int length = 0;
    MPI_Get_processor_name(name, &length);
    host_ = name;
}

World::~World() {
    group_.reset();
    if (std::uncaught_exceptions() <= exceptions_at_start_) MPI_Finalize();
}

void World::abort(int code) { group_->abort(code); }

void leave_early() {
    MPI_Finalize();
    std::_Exit(0);
}

void check_launcher(int mpi_size, const std::function<const char*(const char*)>& environment) {
    if (mpi_size > 1) return;
    if (const int ranks = number(environment("OMPI_COMM_WORLD_SIZE")); ranks > 0) {
        if (ranks > 1)
            throw ConfigError(
                fmt::format("mpirun started {} ranks, but MPI sees 1: mpirun and the program's MPI library "
                            "are of different versions or installations",
                            ranks));
        return;
    }
    // A shell inside an allocation has SLURM_NTASKS too, but no SLURM_STEP_ID: only what srun started has both.
    const bool step = environment("SLURM_PROCID") != nullptr && environment("SLURM_STEP_ID") != nullptr;
    const char* in_step = environment("SLURM_STEP_NUM_TASKS");
    const int tasks = number(in_step != nullptr ? in_step : environment("SLURM_NTASKS"));
    if (step && tasks > 1)
        throw ConfigError(fmt::format("srun started {} tasks, but MPI sees 1: use srun --mpi=pmix", tasks));
    if (const int ranks = number(environment("PMI_SIZE")); ranks > 1)
        throw ConfigError(
            fmt::format("a PMI launcher started {} ranks, but MPI sees 1: use the mpirun that belongs to the "
                        "program's MPI library",
                        ranks));
}

} // namespace tessera
