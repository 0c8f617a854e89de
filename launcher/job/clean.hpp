// SPDX-License-Identifier: Apache-2.0
// Nothing of a job is left on a host: its processes are ended, its folders removed. Known by the job's id alone, which
// no other job has; so a process that got the number of one that is gone is never taken for it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct Cleaned {
    int ended = 0;                 // processes
    std::vector<std::string> left; // "process 123 does not end", "cannot remove /tmp/…: why"
};

// Ends, with SIGKILL, every process of this host whose environment says TESSERA_JOB=ID or whose command line holds the
// id (Open MPI's daemons), but for this one, those it was started by, and others that clean up. A process of another
// network namespace is another host's. Then removes /tmp/ID and /dev/shm/ID with what Open MPI has left in them.
// Returns within `at_most`, also where a process cannot be killed. ConfigError for what is no id of a job.
Cleaned clean_this_host(const std::string& id, std::chrono::seconds at_most);

// Whether the process is there, on this host, and of the job. A zombie is not.
bool is_of_job(std::int64_t process, const std::string& id);

// "tessera-" and 16 hexadecimal digits, and the number of the attempt after a dot.
std::string new_job_id(int attempt);
bool is_job_id(const std::string& text);

} // namespace tessera
