// SPDX-License-Identifier: Apache-2.0
// What a subcommand is, and the one list of them.
#pragma once

#include "core/watch/job_folder.hpp"
#include "launcher/command_line.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace tessera {

// What main must know when a command ends by an exception. A command that starts MPI puts its World here, so that it
// outlives the exception, with the rank and the way to end all ranks.
struct Process {
    std::shared_ptr<void> world;
    int rank = -1;                      // below 0: not known yet, or the only one
    std::function<void(int)> abort;     // ends all ranks with this exit code; does not return
    std::filesystem::path run_folder;   // of training: where a failure is noted (core/watch/job_folder.hpp)
    JobStart job_start;                 // there
    std::function<std::int64_t()> step; // under way, from 1; -1: none
};

struct Command {
    std::string_view name;
    std::string_view summary; // one line
    Usage usage;
    int (*run)(const Arguments& arguments, Process& process); // returns the exit code
};

std::vector<Command> commands(); // in alphabetical order

} // namespace tessera
