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

std::vector<JobState> JobHistory::take(const std::string& number, bool success, const std::string& scontrol_output) {
    std::vector<JobState> found = job_states(scontrol_output), changed;
    auto& known = jobs_[number];
    const bool forgotten = !success && scontrol_output.find("Invalid job id") != std::string::npos && !known.empty();
    heard_ = forgotten || (success && !found.empty());
    if (!heard_) return {};
    if (forgotten)
        for (const auto& [name, job] : known)
            if (!job.ended) found.push_back({name, "gone, Slurm does not tell how", "", true, exit_code::failure});
    // Tasks that wait are one entry, until each has its own.
    if (!forgotten) std::erase_if(known, [](const auto& entry) { return !entry.second.ended; });
    for (JobState& job : found) {
        JobState& before = known[job.number];
        const auto text = [](const JobState& one) { return one.state + one.nodes; };
        const bool same = said_[job.number] == text(job);
        said_[job.number] = text(job);
        before = job;
        if (!same) changed.push_back(std::move(job));
    }
    return changed;
}

bool JobHistory::all_ended(const std::vector<std::string>& numbers) const {
    return std::ranges::all_of(numbers, [&](const std::string& number) {
        const auto found = jobs_.find(number);
        return found != jobs_.end() && !found->second.empty() &&
               std::ranges::all_of(found->second, [](const auto& entry) { return entry.second.ended; });
    });
}

int JobHistory::code(const std::vector<std::string>& numbers) const {
    for (const auto& [name, job] : jobs_.at(numbers.back()))
        if (job.code != 0) return job.code;
    return exit_code::done;
}

std::string submit_to_slurm(const std::string& script_file, const std::string& argument) {
    std::vector<std::string> words{"sbatch", "--parsable", script_file};
    if (!argument.empty()) words.push_back(argument);
    const Answer answer = ask(words);
    if (answer.code != 0) throw SystemError(fmt::format("Slurm did not take the job: {}", answer.text));
    const std::string last = answer.text.substr(answer.text.rfind('\n') + 1); // warnings go before
    return last.substr(0, last.find(';'));                                    // a cluster's name may follow
}

int follow(const FollowedJobs& jobs) {
    const Interrupt interrupt;
    Tail log(jobs.log);
    JobHistory history;
    Clock::time_point next{}, answered = Clock::now();
    for (;;) {
        log.show();
        if (Clock::now() >= next) {
            next = Clock::now() + between_questions;
            std::string trouble;
            for (const std::string& number : jobs.numbers) {
                const Answer answer = ask({"scontrol", "show", "job", "-o", number});
                for (const JobState& job : history.take(number, answer.code == 0, answer.text))
                    fmt::print("job {}: {}{}{}\n", job.number, job.state, job.nodes.empty() ? "" : " on ", job.nodes);
                if (!history.heard()) trouble = answer.text;
            }
            std::fflush(stdout);
            if (trouble.empty()) answered = Clock::now();
            if (Clock::now() - answered > patience)
                throw SystemError(fmt::format("Slurm does not tell of job {}: {}", jobs.numbers.front(), trouble));
            if (trouble.empty() && history.all_ended(jobs.numbers)) {
                log.show();
                return history.code(jobs.numbers);
            }
        }
        if (interrupt.within_a_second()) {
            fmt::print("no longer followed; to end it: scancel {}\n", fmt::join(jobs.numbers, " "));
            return exit_code::interrupted;
        }
    }
}

} // namespace tessera
