// SPDX-License-Identifier: Apache-2.0
// fork, exec and wait.
#include "launcher/job/process.hpp"

#include "kernels/error.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace tessera {
namespace {

[[noreturn]] void fail(const std::string& what) {
    throw SystemError(fmt::format("{}: {}", what, std::strerror(errno)));
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
    std::vector<char*> result;
    for (const std::string& word : words)
        result.push_back(const_cast<char*>(word.c_str()));
    result.push_back(nullptr);
    return result;
}

// Our own, and what is added to it. Not set in this process: what it starts later is no part of the job.
std::vector<std::string> all_variables(const std::map<std::string, std::string>& added) {
    std::vector<std::string> result;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string text = *entry;
        if (!added.contains(text.substr(0, text.find('=')))) result.push_back(text);
    }
    for (const auto& [name, value] : added)
        result.push_back(fmt::format("{}={}", name, value));
    return result;
}

// Between fork and exec, in the child: only calls that are safe there. `report` gets errno when exec fails.
[[noreturn]] void become(char* const* words, char* const* variables, pid_t parent, const Outputs& outputs, int report) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL); // which supervise() has changed
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int input = ::open("/dev/null", O_RDONLY);
    const bool ready = ::getppid() == parent && input >= 0 && ::dup2(input, STDIN_FILENO) == STDIN_FILENO &&
                       (outputs.standard < 0 || ::dup2(outputs.standard, STDOUT_FILENO) == STDOUT_FILENO) &&
                       (outputs.error < 0 || ::dup2(outputs.error, STDERR_FILENO) == STDERR_FILENO);
    if (ready) ::execvpe(words[0], words, variables);
    const int error = errno;
    [[maybe_unused]] const ssize_t written = ::write(report, &error, sizeof error);
    ::_exit(127);
}

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

} // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
}
Descriptor::~Descriptor() {
    if (number_ >= 0) ::close(number_);
}

Pipe make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("cannot make a pipe");
    return {Descriptor(ends[0]), Descriptor(ends[1])};
}

pid_t start_process(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
                    const Outputs& outputs) {
    const std::vector<std::string> variables = all_variables(environment);
    const std::vector<char*> words = pointers(command), settings = pointers(variables);
    Pipe report = make_pipe();
    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child < 0) fail("cannot start a process");
    if (child == 0) become(words.data(), settings.data(), parent, outputs, report.write.number());
    report.write = Descriptor();
    const std::string error = read_available(report.read);
    if (error.empty()) return child;
    ::waitpid(child, nullptr, 0);
    std::memcpy(&errno, error.data(), sizeof errno);
    fail(fmt::format("cannot start {}", command[0]));
}

std::optional<int> exit_code_of(pid_t child) {
    int status = 0;
    const pid_t found = ::waitpid(child, &status, WNOHANG);
    if (found == 0) return std::nullopt;
    if (found < 0) fail("cannot wait for a process");
    return code_of(status);
}

int wait_for(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) fail("cannot wait for a process");
    return code_of(status);
}

std::string read_available(const Descriptor& from) {
    std::string text;
    std::array<char, 4096> piece{};
    for (;;) {
        const ssize_t count = ::read(from.number(), piece.data(), piece.size());
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return text;
        text.append(piece.data(), static_cast<std::size_t>(count));
    }
}

} // namespace tessera
