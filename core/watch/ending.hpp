// SPDX-License-Identifier: Apache-2.0
// How a rank of a stalled job ends: its other threads may hang in anything.
#pragma once

#include "core/watch/job_folder.hpp"
#include "core/watch/stall_verdict.hpp"

#include <cstdint>
#include <filesystem>
#include <vector>

namespace tessera {

// Writes RUN/job/verdict.txt and failure.json and the standard error, unless another failure of the job is noted
// already: then this is only what followed from it. Files of the next attempt are left alone. Never throws.
void tell_verdict(const std::filesystem::path& run_folder, const Verdict& verdict, const JobStart& start);

// From now on this process ends with exit_code::lost in some ten seconds, whatever its threads wait for meanwhile.
void end_within_seconds();

struct StoppedProcess {
    std::int64_t pid;
    std::uint64_t started; // process_state.hpp
};
// Kills them a moment after this process has ended, by a child: mpirun's exit code is that of the first rank that ends,
// and should not be that of a rank that was killed.
void kill_later(const std::vector<StoppedProcess>& stopped);

// Ends this process with exit_code::lost, without destructors: a thread that hangs would be waited for. Removes the
// files in /dev/shm by which Open MPI's ranks share memory, which it would leave behind.
[[noreturn]] void end_now();

} // namespace tessera
