// SPDX-License-Identifier: Apache-2.0
// A command on many hosts at once, by a remote shell (ssh or what a person says), with an end to every wait.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace tessera {

struct Answer {
    bool came = false; // the command was run there and ended with 0 in time
    std::string text;  // of its standard output; where it failed, with its standard error
};

// Runs `command` on each host: where `host` is this one, without a shell between; else as `REMOTE_SHELL HOST COMMAND`,
// COMMAND quoted for a shell there. Answers in the order of `hosts`. What has not ended in time, or when `stop` (asked
// a hundred times a second) says so, is killed. At most 64 at a time.
std::vector<Answer> ask_hosts(const std::vector<std::string>& hosts, const std::string& remote_shell,
                              const std::vector<std::string>& command, std::chrono::seconds at_most,
                              const std::function<bool()>& stop = {});

// Whether the name is that of this host: its own, the part of it before the first dot, or localhost.
bool is_this_host(const std::string& name);

// "ssh -p 22" as words; quotes mean nothing, as to mpirun.
std::vector<std::string> words_of(const std::string& remote_shell);

} // namespace tessera
