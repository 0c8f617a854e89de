// SPDX-License-Identifier: Apache-2.0
// fork, exec, signals and wait. Signals are blocked and waited for, so that no handler runs.
#include "launcher/child.hpp"

#include "core/exit_codes.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <optional>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kill_after{5}; // SIGTERM that had no effect

[[noreturn]] void fail(const std::string& what) {
    throw SystemError(fmt::format("{}: {}", what, std::strerror(errno)));
}

class Descriptor {
public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    int number() const { return number_; }

private:
    int number_;
};

struct Pipe {
    Descriptor read, write;
};

Pipe make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("cannot make a pipe");
    return {Descriptor(ends[0]), Descriptor(ends[1])};
}

std::string read_all(const Descriptor& from) {
    std::string text;
    std::array<char, 4096> piece{};
    for (;;) {
        const ssize_t count = ::read(from.number(), piece.data(), piece.size());
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return text;
        text.append(piece.data(), static_cast<std::size_t>(count));
    }
}

// Blocks the signals that are waited for, for as long as it lives.
class BlockedSignals {
public:
    BlockedSignals() {
        sigemptyset(&set_);
        for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2})
            sigaddset(&set_, signal);
        sigprocmask(SIG_BLOCK, &set_, &before_);
    }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;
    ~BlockedSignals() { restore(); }

    void restore() const { sigprocmask(SIG_SETMASK, &before_, nullptr); }

    // The next signal; 0 when `until` comes first.
    int wait(std::optional<Clock::time_point> until) const {
        for (;;) {
            int signal = 0;
            if (until) {
                const auto left = std::max(*until - Clock::now(), Clock::duration::zero());
                const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
                const timespec time{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
                signal = sigtimedwait(&set_, nullptr, &time);
            } else {
                signal = sigwaitinfo(&set_, nullptr);
            }
            if (signal > 0) return signal;
            if (errno == EAGAIN) return 0;
        }
    }

private:
    sigset_t set_{}, before_{};
};

// Between fork and exec, in the child: only calls that are safe there. `report` gets errno when exec fails.
[[noreturn]] void become(char* const* words, pid_t parent, const Descriptor& report) {
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int input = ::open("/dev/null", O_RDONLY);
    if (::getppid() == parent && input >= 0 && ::dup2(input, STDIN_FILENO) == STDIN_FILENO) ::execvp(words[0], words);
    const int error = errno;
    [[maybe_unused]] const ssize_t written = ::write(report.number(), &error, sizeof error);
    ::_exit(127);
}

// Starts the command; `output`, when given, becomes its standard output and error.
pid_t start(const std::vector<std::string>& command, const BlockedSignals* signals, const Descriptor* output) {
    std::vector<char*> words;
    for (const std::string& word : command)
        words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    Pipe report = make_pipe();
    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child < 0) fail("cannot start a process");
    if (child == 0) {
        if (signals != nullptr) signals->restore();
        if (output != nullptr) {
            ::dup2(output->number(), STDOUT_FILENO);
            ::dup2(output->number(), STDERR_FILENO);
        }
        become(words.data(), parent, report.write);
    }
    report.write = Descriptor();
    const std::string error = read_all(report.read);
    if (error.empty()) return child;
    ::waitpid(child, nullptr, 0);
    std::memcpy(&errno, error.data(), sizeof errno);
    fail(fmt::format("cannot start {}", command[0]));
}

// The exit code of a child that has ended; nothing while it runs.
std::optional<int> ended(pid_t child, int options) {
    int status = 0;
    const pid_t found = ::waitpid(child, &status, options);
    if (found == 0) return std::nullopt;
    if (found < 0) fail("cannot wait for a process");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

} // namespace

int run_child(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
              std::chrono::seconds grace) {
    for (const auto& [name, value] : environment)
        ::setenv(name.c_str(), value.c_str(), 1);
    const BlockedSignals signals;
    const pid_t child = start(command, &signals, nullptr);
    std::optional<Clock::time_point> deadline;
    int asked = 0;            // 1: to save and stop, 2: to end at once
    bool interrupted = false; // by the second signal of a terminal
    int insisted = 0;         // SIGINT and SIGTERM: who sends a second one means it; a closed terminal sends two SIGHUP
    for (;;) {
        if (const std::optional<int> code = ended(child, WNOHANG)) return interrupted ? exit_code::interrupted : *code;
        const int signal = signals.wait(deadline);
        if (signal == SIGCHLD) continue;
        if (signal == SIGUSR2) { // to save and go on
            ::kill(child, SIGUSR2);
            continue;
        }
        if (signal == SIGINT || signal == SIGTERM) ++insisted;
        if (asked == 0 || signal == SIGUSR1) {
            ::kill(child, SIGUSR1);
            if (asked == 0) deadline = Clock::now() + grace;
            asked = std::max(asked, 1);
        } else if (asked == 1 && (signal == 0 || insisted > 1)) {
            asked = 2;
            interrupted = signal == SIGINT;
            ::kill(child, SIGTERM);
            deadline = Clock::now() + kill_after;
        } else if (asked == 2 && signal == 0) {
            ::kill(child, SIGKILL);
            deadline.reset();
        }
    }
}

std::string output_of(const std::vector<std::string>& command) {
    Pipe output = make_pipe();
    pid_t child = -1;
    try {
        child = start(command, nullptr, &output.write);
    } catch (const SystemError&) {
        return ""; // a program that is not installed says nothing
    }
    output.write = Descriptor();
    const std::string text = read_all(output.read);
    return ended(child, 0) == 0 ? text : "";
}

} // namespace tessera
