// SPDX-License-Identifier: Apache-2.0
// sbatch and scontrol, run by a shell whose words are quoted.
#include "launcher/slurm/slurm_jobs.hpp"

#include "core/exit_codes.hpp"
#include "kernels/error.hpp"
#include "launcher/job/job.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <sys/wait.h>

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds between_questions{3}, patience{60};

struct Answer {
    int code;
    std::string text; // standard output and error
};

Answer ask(const std::vector<std::string>& words) {
    std::string line;
    for (const std::string& word : words)
        line += quoted(word) + ' ';
    std::FILE* pipe = ::popen((line + "2>&1 </dev/null").c_str(), "re");
    if (pipe == nullptr) throw SystemError(fmt::format("cannot start {}: {}", words[0], std::strerror(errno)));
    std::string text;
    std::array<char, 4096> piece{};
    while (const std::size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
        text.append(piece.data(), count);
    const int status = ::pclose(pipe);
    while (!text.empty() && text.back() == '\n')
        text.pop_back();
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 1, text};
}

// SIGINT is waited for, so that it does not end the program in the middle of a line.
class Interrupt {
public:
    Interrupt() {
        sigemptyset(&set_);
        sigaddset(&set_, SIGINT);
        sigprocmask(SIG_BLOCK, &set_, &before_);
    }
    Interrupt(const Interrupt&) = delete;
    Interrupt& operator=(const Interrupt&) = delete;
    ~Interrupt() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

    bool within_a_second() const {
        const timespec second{1, 0};
        return sigtimedwait(&set_, nullptr, &second) == SIGINT;
    }

private:
    sigset_t set_{}, before_{};
};

// Shows what is added to a file from now on.
class Tail {
public:
    explicit Tail(std::string path) : path_(std::move(path)) {
        std::ifstream file(path_, std::ios::ate);
        if (file) at_ = file.tellg();
    }
    void show() {
        if (path_.empty()) return;
        std::ifstream file(path_);
        if (!file.seekg(at_)) return;
        std::array<char, 4096> piece{};
        do {
            file.read(piece.data(), piece.size());
            std::fwrite(piece.data(), 1, static_cast<std::size_t>(file.gcount()), stdout);
            at_ += file.gcount();
        } while (file);
        std::fflush(stdout);
    }

private:
    std::string path_;
    std::streamoff at_ = 0;
};

std::map<std::string, std::string> fields_of(const std::string& line) {
    std::map<std::string, std::string> fields;
    std::istringstream words(line);
    for (std::string word; words >> word;)
        if (const std::size_t equals = word.find('='); equals != std::string::npos)
            fields.emplace(word.substr(0, equals), word.substr(equals + 1)); // the first of a name is Slurm's own
    return fields;
}

// "3:0" is an exit code, "0:9" a signal.
int code_of(const std::string& text, const std::string& state) {
    int code = 0, signal = 0;
    if (std::sscanf(text.c_str(), "%d:%d", &code, &signal) < 1) code = 0;
    if (signal > 0) return 128 + signal;
    return code == 0 && state != "COMPLETED" ? exit_code::failure : code;
}

} // namespace

std::vector<JobState> job_states(const std::string& scontrol_output) {
    static const std::set<std::string> final_states{"COMPLETED",     "FAILED",    "CANCELLED", "TIMEOUT",  "NODE_FAIL",
                                                    "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",  "PREEMPTED"};
    std::vector<JobState> all;
    std::istringstream lines(scontrol_output);
    for (std::string line; std::getline(lines, line);) {
        auto fields = fields_of(line);
        if (!fields.contains("JobId") || !fields.contains("JobState")) continue;
        JobState& job = all.emplace_back();
        const bool task = fields.contains("ArrayTaskId");
        job.number = task ? fields["ArrayJobId"] + '_' + fields["ArrayTaskId"] : fields["JobId"];
        job.state = fields["JobState"];
        job.ended = final_states.contains(job.state);
        if (job.ended) job.code = code_of(fields["ExitCode"], job.state);
        const std::string reason = fields["Reason"];
        if (!reason.empty() && reason != "None") job.state += " (" + reason + ')';
        if (fields["NodeList"] != "(null)") job.nodes = fields["NodeList"];
    }
    return all;
}

std::string submit_to_slurm(const std::string& script_file) {
    const Answer answer = ask({"sbatch", "--parsable", script_file});
    if (answer.code != 0) throw SystemError(fmt::format("Slurm did not take the job: {}", answer.text));
    const std::string last = answer.text.substr(answer.text.rfind('\n') + 1); // warnings go before
    return last.substr(0, last.find(';'));                                    // a cluster's name may follow
}

int follow(const FollowedJobs& jobs) {
    const Interrupt interrupt;
    Tail log(jobs.log);
    std::map<std::string, std::string> known;
    Clock::time_point next{}, answered = Clock::now();
    for (;;) {
        log.show();
        if (Clock::now() >= next) {
            next = Clock::now() + between_questions;
            std::vector<JobState> states;
            std::string trouble;
            for (const std::string& number : jobs.numbers) {
                const Answer answer = ask({"scontrol", "show", "job", "-o", number});
                const std::vector<JobState> found = job_states(answer.text);
                if (answer.code != 0 || found.empty()) trouble = answer.text;
                states.insert(states.end(), found.begin(), found.end());
            }
            if (trouble.empty()) answered = Clock::now();
            if (Clock::now() - answered > patience)
                throw SystemError(fmt::format("Slurm does not tell of job {}: {}", jobs.numbers.front(), trouble));
            for (const JobState& job : states) {
                const std::string now = job.state + (job.nodes.empty() ? "" : " on " + job.nodes);
                if (known[job.number] == now) continue;
                known[job.number] = now;
                fmt::print("job {}: {}\n", job.number, now);
                std::fflush(stdout);
            }
            if (trouble.empty() && std::ranges::all_of(states, &JobState::ended)) {
                log.show();
                if (jobs.numbers.size() > 1) return states.back().code;
                const auto bad = std::ranges::find_if(states, [](const JobState& job) { return job.code != 0; });
                return bad == states.end() ? exit_code::done : bad->code;
            }
        }
        if (interrupt.within_a_second()) {
            fmt::print("no longer followed; to end it: scancel {}\n", fmt::join(jobs.numbers, " "));
            return exit_code::interrupted;
        }
    }
}

} // namespace tessera
