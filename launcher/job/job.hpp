// SPDX-License-Identifier: Apache-2.0
// The command and the environment that start the ranks of a run, chosen from what a person asked for and from where the
// launcher finds itself. Pure: starts nothing, so that it can be shown and tested.
#pragma once

#include "core/watch/job_folder.hpp" // job_variable, by which processes of a job are known on every host
#include "launcher/job/binding.hpp"
#include "launcher/job/hosts.hpp"

#include <functional>
#include <map>

namespace tessera {

// More than these is a slip, in an argument as in a variable of the environment.
inline constexpr std::int64_t most_ranks = 1'000'000, most_threads = 4096;

// Seconds within which a host must answer, and no question waits for an answer that it will never get.
inline constexpr const char* usual_remote_shell = "ssh -x -o BatchMode=yes -o ConnectTimeout=5";

// What a person asked for.
struct Wish {
    std::int64_t ranks = 0;       // 0: as many as the hosts have slots, as Slurm's allocation has tasks, or 1
    std::int64_t threads = 0;     // 0: OMP_NUM_THREADS, Slurm's CPUs per task, or as many as leave each rank its own
    std::vector<HostSlots> hosts; // empty: this one, or Slurm's
    std::string remote_shell = usual_remote_shell; // `remote_shell HOST COMMAND`
    std::string interface;                         // network interfaces or networks ("eth0", "10.1.0.0/16"); empty: any
    std::string output; // the run's folder, for a log of each rank; empty: all speak on the console
};

// Where the launcher runs.
struct Surroundings {
    std::string host; // its name
    HostShape shape;
    std::map<std::string, HostShape> others;                    // those of Wish::hosts that have answered, by name
    std::function<std::string(const std::string&)> environment; // a variable's value; "" when it is not set
    std::vector<std::string> variables;                         // the names of all that are set
    bool root = false;                                          // Open MPI wants to be told
    std::function<bool()> srun_has_pmix;                        // asked inside a Slurm allocation only
};

struct Job {
    std::string id; // no other job has it, on any host
    std::int64_t ranks = 1;
    std::int64_t threads = 1;                       // of each rank
    bool bound = true;                              // each rank has cores of its own
    bool slurm = false;                             // started by srun
    std::int64_t nodes = 1;                         // of Slurm's allocation
    std::vector<HostSlots> hosts;                   // by rank: the first has the first ones; empty: Slurm's
    std::vector<std::string> command;               // the program and its arguments
    std::map<std::string, std::string> environment; // in addition to the launcher's own
    std::vector<std::string> passed_on;             // variables of the launcher's own that remote ranks get
    std::vector<std::string> notes;                 // lines that a person should read before it starts
    std::vector<std::string> map;                   // of each rank: its host, cores and GPU; empty: Slurm places them
    std::string host_of(std::int64_t rank) const;   // "" when it is not known
};

// `program`: this program and the words that make it a rank: {"/opt/tessera", "train", "gpt.toml"}.
Job plan_job(const std::vector<std::string>& program, const Wish& wish, const Surroundings& here,
             const std::string& id);

// Whether a variable of this name may be shown and sent to other hosts.
bool looks_like_a_secret(const std::string& name);

// For people: the command, the environment and the place of each rank.
std::string job_text(const Job& job, const Surroundings& here);

// As a shell reads it back.
std::string quoted(const std::string& word);
std::string quoted(const std::vector<std::string>& words);

} // namespace tessera
