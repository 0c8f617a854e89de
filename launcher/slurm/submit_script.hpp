// SPDX-License-Identifier: Apache-2.0
// The batch script of a run under Slurm, as text; submits nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

using Words = std::vector<std::string>;

struct Submission {
    std::string program; // path of tessera
    Words said;          // what a person typed after `tessera`, for the script's first lines
    std::string config;
    Words overrides;
    std::string folder; // of the run
    std::string job_name;
    std::int64_t least_nodes = 1, most_nodes = 1;
    std::int64_t ranks_per_node = 1;
    std::int64_t cpus_per_rank = 1;
    std::int64_t gpus_per_node = 0;      // 0: none asked for
    std::string time;                    // as Slurm writes it; "": the partition's limit
    std::string partition, account, qos; // "": Slurm's default
    std::int64_t signal_before = 120;    // seconds from the signal to the time limit
    std::int64_t most_starts = 20; // a job that lost a rank is put into the queue again until it has started so often
    bool chained = false;          // one of several jobs of this name, one after the other: none goes back to the queue
    Words options;                 // more options of sbatch, each a whole "--name=value"
    std::vector<Words> sweep;      // the overrides of each task of an array; empty: no array
    bool begins_elsewhere = false; // checkpoint.resume is not auto: that is for the first start alone
    std::int64_t at_once = 0;      // tasks of the array that run at the same time; 0: no limit
};

// Every value stands quoted in it, for Slurm or for the shell. Throws ConfigError for one that cannot: a line break
// anywhere, a name of a job, partition, account or QOS with other than letters, digits and _ - + . , : @, a folder with
// a quote or a backslash, an option of sbatch that does not begin with "--".
std::string submit_script(const Submission& submission);

// Where the run of a task of the array lives, and a job's log. `task` is a number, or Slurm's or the shell's name for
// it.
std::string task_folder(const Submission& submission, const std::string& task);
std::string log_of(const std::string& run_folder);

// {"a.x=1,2", "b.y=3,4"} as {a.x=1 b.y=3}, {a.x=1 b.y=4}, {a.x=2 b.y=3}, … ConfigError for one without key or values,
// for a key that stands twice, and for more combinations than Slurm's arrays usually may have (1000).
std::vector<Words> combinations(const Words& sweeps);

// Seconds of a time limit as Slurm writes it: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS,
// DAYS-HOURS:MINUTES or DAYS-HOURS:MINUTES:SECONDS. ConfigError for anything else, and for none at all.
std::int64_t seconds_of(const std::string& time);

} // namespace tessera
