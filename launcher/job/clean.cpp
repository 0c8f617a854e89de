// SPDX-License-Identifier: Apache-2.0
// Processes by /proc. A process is held by a descriptor of its own before it is looked at and killed by it, so that its
// number cannot have gone to another in between; kernels before 5.3 and some containers have no such descriptors, and
// there that moment is a risk.
#include "launcher/job/clean.hpp"

#include "kernels/error.hpp"
#include "launcher/job/job.hpp"
#include "launcher/job/process.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <poll.h>
#include <random>
#include <set>
#include <sstream>
#include <sys/syscall.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::string_view id_prefix = "tessera-";
constexpr std::size_t id_digits = 16;
constexpr const char* cleaner = "--clean"; // the option of those who do the same

std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

pid_t parent_of(pid_t process) {
    const std::string text = content(fmt::format("/proc/{}/stat", process)); // number (name) state parent …
    std::istringstream rest(text.substr(std::min(text.rfind(')') + 1, text.size())));
    std::string state;
    pid_t parent = 0;
    rest >> state >> parent;
    return parent;
}

std::set<pid_t> those_above_us() {
    std::set<pid_t> above{::getpid()};
    for (pid_t process = ::getppid(); process > 0 && above.insert(process).second;)
        process = parent_of(process);
    return above;
}

std::string network_of(const std::string& process) {
    std::error_code error;
    return fs::read_symlink("/proc/" + process + "/ns/net", error).string();
}

// Those that are still there after they were killed.
struct Doomed {
    pid_t process;
    Descriptor descriptor;
};

std::vector<Doomed> kill_all_of(const std::string& id) {
    const std::set<pid_t> above = those_above_us();
    std::vector<Doomed> doomed;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        const auto process = static_cast<pid_t>(std::stol(name));
        if (above.contains(process)) continue;
        Descriptor held(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
        const bool unheld = held.number() < 0 && errno != ESRCH;
        if ((held.number() < 0 && !unheld) || !is_of_job(process, id)) continue;
        const long killed =
            unheld ? ::kill(process, SIGKILL) : ::syscall(SYS_pidfd_send_signal, held.number(), SIGKILL, nullptr, 0);
        if (killed != 0) continue;
        doomed.push_back({process, std::move(held)});
    }
    return doomed;
}

bool is_gone(const Doomed& one, const std::string& id, int wait) {
    for (; one.descriptor.number() < 0 && wait > 0 && is_of_job(one.process, id); wait -= 10)
        ::usleep(10'000);
    if (one.descriptor.number() < 0) return !is_of_job(one.process, id);
    pollfd ready{one.descriptor.number(), POLLIN, 0}; // readable once it has ended, a zombie too
    return ::poll(&ready, 1, wait) == 1;
}

} // namespace

namespace {

// Not as the beginning of a longer one: attempt 1 is not attempt 10.
bool holds_id(const std::string& words, const std::string& id) {
    for (std::size_t at = words.find(id); at != std::string::npos; at = words.find(id, at + 1)) {
        const std::size_t end = at + id.size();
        if (end == words.size() || words[end] < '0' || words[end] > '9') return true;
    }
    return false;
}

} // namespace

bool is_of_job(std::int64_t process, const std::string& id) {
    const std::string folder = fmt::format("/proc/{}/", process);
    const std::string words = content(folder + "cmdline");
    if (words.find(std::string(cleaner) + '\0') != std::string::npos ||
        words.find(std::string(cleaner) + ' ') != std::string::npos)
        return false;
    const std::string variables = '\0' + content(folder + "environ");
    const std::string wanted = fmt::format("{}={}", job_variable, id);
    if (variables.find('\0' + wanted + '\0') == std::string::npos && !holds_id(words, id)) return false;
    const std::string own = network_of("self"), other = network_of(std::to_string(process));
    return own.empty() || other.empty() || own == other;
}

Cleaned clean_this_host(const std::string& id, std::chrono::seconds at_most) {
    if (!is_job_id(id)) throw ConfigError(fmt::format("'{}' is no id of a job", id));
    const Clock::time_point until = Clock::now() + at_most;
    Cleaned result;
    for (;;) { // one that was just about to start another
        std::vector<Doomed> doomed = kill_all_of(id);
        if (doomed.empty()) break;
        result.left.clear();
        for (const Doomed& one : doomed) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
            if (is_gone(one, id, static_cast<int>(std::max<long long>(left, 0))))
                ++result.ended;
            else
                result.left.push_back(fmt::format("process {} does not end", one.process));
        }
        if (!result.left.empty() || Clock::now() >= until) break;
    }
    for (const char* parent : {"/tmp/", "/dev/shm/"}) {
        std::error_code error;
        fs::remove_all(parent + id, error);
        if (error) result.left.push_back(fmt::format("cannot remove {}{}: {}", parent, id, error.message()));
    }
    return result;
}

std::string new_job_id(int attempt) {
    std::random_device device;
    return fmt::format("{}{:08x}{:08x}.{}", id_prefix, device(), device(), attempt);
}

bool is_job_id(const std::string& text) {
    const std::size_t dot = id_prefix.size() + id_digits;
    return text.starts_with(id_prefix) && text.size() > dot + 1 && text.size() < dot + 12 && text[dot] == '.' &&
           text.find_first_not_of("0123456789abcdef", id_prefix.size()) == dot &&
           text.find_first_not_of("0123456789", dot + 1) == std::string::npos;
}

} // namespace tessera
