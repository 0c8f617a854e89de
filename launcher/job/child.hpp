// SPDX-License-Identifier: Apache-2.0
// Runs the program that starts the ranks, hands it the signals meant for the run, and waits for it.
#pragma once

#include "launcher/job/process.hpp"

#include <chrono>
#include <csignal>
#include <functional>
#include <string_view>

namespace tessera {

// While it lives, the signals meant for a run (SIGUSR1, SIGUSR2, SIGINT, SIGTERM, SIGHUP) wait here instead of ending
// this process. One of a process at a time.
class SignalInbox {
public:
    SignalInbox();
    ~SignalInbox();
    SignalInbox(const SignalInbox&) = delete;
    SignalInbox& operator=(const SignalInbox&) = delete;

    // The next signal, waited for at most so long: 0 when none has come. SIGCHLD only wakes. `other`, when given, is a
    // descriptor that wakes as well when there is something to read.
    int next(std::chrono::milliseconds at_most, const Descriptor* other = nullptr) const;

private:
    sigset_t before_{};
    Descriptor descriptor_;
};

// What the launcher does while a child runs. Each may be empty.
struct Watch {
    std::function<void(std::string_view text)> said; // gets what it writes to its standard error, as it comes
    std::function<bool()> must_end;                  // asked ten times a second: whether to end it at once
    std::function<bool()> ready; // whether it has handlers for SIGUSR1 and SIGUSR2, which wait until then
};

enum class Asked { nothing, save_and_stop, end_now };

struct ChildEnd {
    int code = 0;                 // exit code, or 128 plus the number of the signal that ended it
    Asked asked = Asked::nothing; // by signals to this process
    bool ended_by_us = false;     // it did not end in time, or `must_end` said so
};

// Runs `command` as start_process does, until it ends.
//
// SIGUSR1 to this process means "save and stop": it goes to the child, which mpirun and srun pass on to every rank.
// SIGINT, SIGTERM and SIGHUP mean the same, because mpirun would kill its ranks a second or two after them, in the
// middle of a checkpoint. SIGUSR2, "save and go on", goes to the child as it is. What still runs `grace` after the
// first of the four, or when SIGINT or SIGTERM come a second time, gets SIGTERM, and SIGKILL five seconds later; where
// SIGINT came a second time, the code is that of an interruption (core/exit_codes.hpp). A child that even then is not
// gone in five seconds is left to itself, with code 128 + SIGKILL.
ChildEnd run_child(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
                   std::chrono::seconds grace, const SignalInbox& signals, const Watch& watch = {});

// What `command` writes to its standard output and error within so many seconds; empty when it cannot be started, fails
// or takes longer.
std::string output_of(const std::vector<std::string>& command, std::chrono::seconds at_most = std::chrono::seconds(60));

} // namespace tessera
