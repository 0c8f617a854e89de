// SPDX-License-Identifier: Apache-2.0
// One attempt to run a job: start it, listen, see that it ends, leave nothing behind.
#pragma once

#include "launcher/job/ending.hpp"
#include "launcher/job/job.hpp"
#include "launcher/job/run_progress.hpp"

#include <filesystem>

namespace tessera {

// What the launcher says: on the standard error, and in RUN/logs/launch.log where there is a run folder.
class Voice {
public:
    // `name`: of the command, "launch". `run_folder` may be empty.
    Voice(std::string name, const std::filesystem::path& run_folder);
    void say(const std::string& sentence);    // "tessera launch: SENTENCE", unless that was the last word
    void pass_on(const std::string& text);    // as it is
    void write_down(const std::string& text); // in the log alone

private:
    std::string name_;
    std::filesystem::path log_;
    std::string last_; // said, and nothing passed on since
};

struct Attempt {
    Ending ending;
    ChildEnd child;
    RunProgress progress;
    RunProgress::Clock::time_point started, noticed, cleaned; // `noticed`: that it has failed, or ended
};

// How long what may be waited for.
struct Patience {
    std::chrono::seconds grace{120}; // to save and stop, when asked
    std::chrono::seconds start{300}; // from the start of mpirun or srun until the ranks know each other
};

// Runs the job until it ends, or until a failure that a rank has noted has not ended it after ten seconds, or until its
// ranks have not come together in time. The first word of a failure is said at once. Then nothing of it is left on any
// of its hosts, or that is said. `run_folder` may be empty: then no rank notes anything.
Attempt run_attempt(const Job& job, const Wish& wish, const std::filesystem::path& run_folder, const Patience& patience,
                    const SignalInbox& signals, Voice& voice);

} // namespace tessera
