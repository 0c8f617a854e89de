// SPDX-License-Identifier: Apache-2.0
// Hands a script to Slurm and watches the jobs made of it, through Slurm's own programs.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace tessera {

// Gives the script to sbatch, with an argument unless that is empty, and returns the job's number. SystemError with
// what sbatch says when it refuses.
std::string submit_to_slurm(const std::string& script_file, const std::string& argument = "");

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

// What is known of jobs that are followed, when Slurm has forgotten those that ended some minutes ago (MinJobAge), too.
// Here for its tests.
class JobHistory {
public:
    // Takes what `scontrol show job -o NUMBER` said, and whether it ended with 0. Returns the states that are new.
    // Nothing is known from an answer that tells of no job: then `heard()` is false for this number.
    std::vector<JobState> take(const std::string& number, bool success, const std::string& scontrol_output);
    bool heard() const { return heard_; } // whether the last answer told something
    // All of these have been heard of and have ended.
    bool all_ended(const std::vector<std::string>& numbers) const;
    int code(const std::vector<std::string>& numbers) const; // as follow() returns it

private:
    std::map<std::string, std::map<std::string, JobState>> jobs_; // by number: a job, or the tasks of an array
    std::map<std::string, std::string> said_;                     // by name
    bool heard_ = false;
};

} // namespace tessera
