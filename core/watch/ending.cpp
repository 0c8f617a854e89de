// SPDX-License-Identifier: Apache-2.0
// The last acts of a rank whose job has stalled.
#include "core/watch/ending.hpp"

#include "core/exit_codes.hpp"
#include "core/run/text_file.hpp"
#include "core/watch/job_folder.hpp"
#include "core/watch/process_state.hpp"

#include <chrono>
#include <csignal>
#include <exception>
#include <fmt/format.h>
#include <fstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::chrono::seconds most{10};
constexpr std::chrono::milliseconds moment{1500};

void say(const std::string& text) {
    std::size_t said = 0;
    while (said < text.size()) {
        const ssize_t bytes = ::write(STDERR_FILENO, text.data() + said, text.size() - said);
        if (bytes <= 0) return;
        said += static_cast<std::size_t>(bytes);
    }
}

} // namespace

void tell_verdict(const std::filesystem::path& run_folder, const Verdict& verdict, const JobStart& start) {
    const bool first = note_failure(run_folder,
                                    {.kind = verdict.kind,
                                     .code = exit_code::lost,
                                     .place = verdict.place,
                                     .step = verdict.step,
                                     .message = verdict.sentence},
                                    start);
    if (!first && read_failure(run_folder)) return;
    say("tessera: " + verdict.page);
    if (is_of_another_job(run_folder, start)) return;
    try {
        replace_file(job_folder(run_folder) / "verdict.txt", verdict.page);
    } catch (const std::exception& error) {
        say(fmt::format("tessera: {}\n", error.what()));
    }
}

void end_within_seconds() {
    std::thread([] {
        std::this_thread::sleep_for(most);
        ::_exit(exit_code::lost);
    }).detach();
}

// It leaves mpirun's pipes and session, so that nobody waits for it.
void kill_later(const std::vector<StoppedProcess>& stopped) {
    if (stopped.empty() || ::fork() != 0) return;
    ::setsid();
    ::close_range(0, ~0U, 0);
    std::this_thread::sleep_for(moment);
    for (const StoppedProcess& one : stopped)
        if (process_state(one.pid).started == one.started) ::kill(static_cast<pid_t>(one.pid), SIGKILL);
    ::_exit(0);
}

void end_now() {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
        if (const std::size_t path = line.find("/dev/shm/vader_segment."); path != std::string::npos)
            ::unlink(line.substr(path).c_str());
    ::_exit(exit_code::lost);
}

} // namespace tessera
