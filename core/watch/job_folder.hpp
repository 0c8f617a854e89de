// SPDX-License-Identifier: Apache-2.0
// RUN/job: what ranks and whoever started them tell each other through the run's folder: who runs where, and why the
// job failed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// The variable that a launcher gives all processes of a job: no other job, nor another attempt at it, has its value.
inline constexpr const char* job_variable = "TESSERA_JOB";
std::string this_job(); // its value; "" where no launcher has started this process

// Where a rank runs.
struct RankPlace {
    int rank = 0;
    std::string host;
    std::int64_t pid = 0;

    friend bool operator==(const RankPlace&, const RankPlace&) = default;
};

// What tells a process which of what lies in RUN/job is older than itself, where no launcher has named its job.
struct JobStart {
    std::string before{};   // the job in ranks.json; "": of none, or not known
    std::int64_t time = -1; // seconds since 1970; below 0: not known
};

// Of a process that has just begun, as all ranks of its job have.
JobStart job_start(const std::filesystem::path& run_folder);

// Why a job ended: its first failure.
struct JobFailure {
    std::string kind = "error"; // config, data, lost, stalled, diverged or error
    int code = 1;               // the exit code that stands for it
    RankPlace place{};          // of the rank that failed, which need not be the one that says so
    std::int64_t step = -1;     // under way, from 1; -1: none or unknown
    std::string message{};      // one sentence
    std::int64_t time = 0;      // seconds since 1970; 0: now, when it is noted
    std::string job{};          // of whoever notes it; empty: of this process
};

// The kind of failure that an exit code stands for; "error" for any other.
std::string_view failure_kind(int code);

// RUN/job, with failure.json, ranks.json and verdict.txt (for people).
std::filesystem::path job_folder(const std::filesystem::path& run_folder);

// Writes RUN/job/failure.json unless a failure of the job is there already, whoever noted it on whichever host: the
// first one stays. Nor does it write when ranks.json is of another job than it was when the process began: a rank that
// was cut off is no part of the next attempt. Whether this one was the first. Makes the folders. Never throws: where
// nothing can be written, nothing is.
bool note_failure(const std::filesystem::path& run_folder, JobFailure failure, const JobStart& start = {});

// Empty where there is none, or what is there is no such file.
std::optional<JobFailure> read_failure(const std::filesystem::path& run_folder);

// Rank 0, at the start. Removes failure.json and verdict.txt of a job before, which no rank of this one has written.
// SystemError when it cannot be written.
void write_ranks(const std::filesystem::path& run_folder, const std::vector<RankPlace>& ranks);

// Whether what is there is of another job than this process, and than the one before it: the next attempt.
bool is_of_another_job(const std::filesystem::path& run_folder, const JobStart& start = {});

// Empty where there is none, or what is there is no such file.
std::vector<RankPlace> read_ranks(const std::filesystem::path& run_folder);

// Removes RUN/job with all that is in it. SystemError when it cannot be done.
void clear_job_folder(const std::filesystem::path& run_folder);

// Moves RUN/job, if there is one, to the first RUN/job.K that is free, from 1, and returns that. SystemError when it
// cannot be done.
std::filesystem::path set_job_folder_aside(const std::filesystem::path& run_folder);

} // namespace tessera
