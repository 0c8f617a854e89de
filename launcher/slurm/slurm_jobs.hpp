// SPDX-License-Identifier: Apache-2.0
// Hands a script to Slurm and watches the jobs made of it, through Slurm's own programs.
#pragma once

#include <string>
#include <vector>

namespace tessera {

// Gives the script to sbatch and returns the job's number. SystemError with what sbatch says when it refuses.
std::string submit_to_slurm(const std::string& script_file);

struct FollowedJobs {
    std::vector<std::string> numbers; // all of one script; an array is one
    std::string log;                  // that they append to; "": not shown
};

// Prints each change of a job's state and what is added to the log, from now on, until all jobs have ended. A job that
// goes back to the queue has not ended. Returns the exit code of the first job (or task of an array) that did not end
// with 0, 128 plus the number of the signal that ended it, 1 where Slurm ended it and knows no code; of a chain that of
// its last job. SIGINT ends this function (exit_code::interrupted), and no job. SystemError when Slurm does not answer
// for a minute.
int follow(const FollowedJobs& jobs);

// One line of `scontrol show job -o`. Here for its tests.
struct JobState {
    std::string number; // "12", or "12_3" for a task of an array
    std::string state;  // "RUNNING", "PENDING (Resources)"
    std::string nodes;
    bool ended = false;
    int code = 0; // once it has ended
};
std::vector<JobState> job_states(const std::string& scontrol_output);

} // namespace tessera
