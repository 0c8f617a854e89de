// SPDX-License-Identifier: Apache-2.0
// The command and the environment that start the ranks of a run, chosen from what a person asked for and from where the
// launcher finds itself. Pure: starts nothing, so that it can be shown and tested.
#pragma once

#include "launcher/binding.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace tessera {

// More than these is a slip, in an argument as in a variable of the environment.
inline constexpr std::int64_t most_ranks = 1'000'000, most_threads = 4096;

// Where the launcher runs.
struct Host {
    std::vector<int> cores;                                     // of this host (binding.hpp)
    std::function<std::string(const std::string&)> environment; // a variable's value; "" when it is not set
    bool root = false;                                          // Open MPI wants to be told
    std::function<bool()> srun_has_pmix;                        // asked inside a Slurm allocation only
};

struct Job {
    Binding binding;
    bool slurm = false;                             // started by srun
    std::vector<std::string> command;               // the program and its arguments
    std::map<std::string, std::string> environment; // in addition to the launcher's own
    std::vector<std::string> notes;                 // lines that a person should read before it starts
};

// `program` is what each rank runs. `ranks` = 0: as many as Slurm's allocation has tasks, or 1. `threads` = 0:
// OMP_NUM_THREADS, or the CPUs per task of Slurm's allocation, or as many as leave each rank cores of its own.
Job plan_job(const std::vector<std::string>& program, std::int64_t ranks, std::int64_t threads, const Host& host);

// For people: the command, the environment and the cores of each rank.
std::string job_text(const Job& job, const Host& host);

// As a shell reads it back.
std::string quoted(const std::string& word);

} // namespace tessera
