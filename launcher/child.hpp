// SPDX-License-Identifier: Apache-2.0
// Runs the program that starts the ranks, hands it the signals meant for the run, and waits for it.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace tessera {

// Runs `command` (found in PATH) in a session of its own with /dev/null as its input, and returns its exit code, or 128
// plus the number of the signal that ended it.
//
// SIGUSR1 to this process means "save and stop": it goes to the child, which mpirun and srun pass on to every rank.
// SIGINT, SIGTERM and SIGHUP mean the same, because mpirun would kill its ranks a second or two after them, in the
// middle of a checkpoint. What still runs `grace` after the first of the four, or when SIGINT or SIGTERM come a second
// time, gets SIGTERM, and SIGKILL five seconds later; where SIGINT came a second time, the code is that of an
// interruption (core/exit_codes.hpp). SIGUSR2, "save and go on", is passed on and changes nothing else. The child does
// not outlive this process. Throws SystemError when it cannot be started.
int run_child(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
              std::chrono::seconds grace);

// What `command` writes to its standard output and error; empty when it cannot be started or fails.
std::string output_of(const std::vector<std::string>& command);

} // namespace tessera
