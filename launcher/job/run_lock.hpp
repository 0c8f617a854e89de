// SPDX-License-Identifier: Apache-2.0
// One launcher at a time for a run's folder: two would take each other's checkpoints for their own.
#pragma once

#include "launcher/job/process.hpp"

#include <filesystem>

namespace tessera {

class RunLock {
public:
    // Holds RUN/lock, made with the folder, as long as it lives, and as long as a process that was started meanwhile
    // does: mpirun may outlive a launcher that is killed, for some seconds, which are waited for. ConfigError naming
    // host, process and job of who has it. SystemError when the file cannot be made.
    RunLock(const std::filesystem::path& run_folder, const std::string& job);

    void tell(const std::string& job); // that this one is under way

    // The last job of a launcher that was on this host and is gone, and may have left something of it; "" where none is
    // known.
    const std::string& left() const { return left_; }

    // A sentence where the file system knows no locks, so that a second launcher would go unseen; empty otherwise.
    const std::string& warning() const { return warning_; }

private:
    bool take() const;

    std::filesystem::path path_;
    Descriptor file_;
    std::string warning_, left_;
};

} // namespace tessera
