// SPDX-License-Identifier: Apache-2.0
// One launcher at a time for a run's folder: two would take each other's checkpoints for their own.
#pragma once

#include "launcher/job/process.hpp"

#include <filesystem>

namespace tessera {

class RunLock {
public:
    // Holds RUN/lock, made with the folder, as long as it lives; the system gives it back however this process ends, so
    // what a dead launcher has left is no hindrance. ConfigError naming host, process and job of who has it.
    // SystemError when the file cannot be made.
    RunLock(const std::filesystem::path& run_folder, const std::string& job);

    // A sentence where the file system knows no locks, so that a second launcher would go unseen; empty otherwise.
    const std::string& warning() const { return warning_; }

private:
    Descriptor file_;
    std::string warning_;
};

} // namespace tessera
