// SPDX-License-Identifier: Apache-2.0
// flock, which network file systems pass on to their server, and a line for people in the file.
#include "launcher/job/run_lock.hpp"

#include "kernels/error.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

namespace tessera {

namespace {

constexpr std::chrono::seconds end_within{10}; // of what a launcher that is gone has started

std::string host_name() {
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    return host.data();
}

// What a launcher wrote, where it was on this host and is no more.
std::string job_of_gone(const std::string& holder) {
    int process = 0;
    std::array<char, 256> host{}, job{};
    if (std::sscanf(holder.c_str(), "process %d on %255[^,], job %255[^,]", &process, host.data(), job.data()) != 3 ||
        host_name() != host.data() || ::kill(process, 0) == 0 || errno != ESRCH)
        return "";
    return job.data();
}

std::string content(const Descriptor& file) {
    ::lseek(file.number(), 0, SEEK_SET);
    std::string text = read_available(file);
    text.erase(text.find_last_not_of('\n') + 1);
    return text;
}

} // namespace

// Whether there is a lock to hold: some file systems know none.
bool RunLock::take() const {
    const auto until = std::chrono::steady_clock::now() + end_within;
    while (::flock(file_.number(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return false;
        const std::string holder = content(file_);
        const std::string gone = job_of_gone(holder);
        if (!gone.empty() && std::chrono::steady_clock::now() < until) {
            ::usleep(50'000);
            continue;
        }
        throw ConfigError(fmt::format("{} is being trained already, by {}{}", path_.parent_path().string(),
                                      holder.empty() ? "another launcher" : holder,
                                      gone.empty()
                                          ? ": wait for it, or say another run.folder"
                                          : ", which is gone and has left processes: tessera host --clean " + gone));
    }
    return true;
}

RunLock::RunLock(const std::filesystem::path& run_folder, const std::string& job) : path_(run_folder / "lock") {
    std::error_code error;
    std::filesystem::create_directories(run_folder, error);
    if (error) throw SystemError(fmt::format("cannot make {}: {}", run_folder.string(), error.message()));
    file_ = Descriptor(::open(path_.c_str(), O_RDWR | O_CREAT, 0666)); // not O_CLOEXEC: see the header
    if (file_.number() < 0) throw SystemError(fmt::format("cannot open {}: {}", path_.string(), std::strerror(errno)));
    if (!take())
        warning_ =
            fmt::format("{}: {}: a second launch of this run would go unseen", path_.string(), std::strerror(errno));
    left_ = job_of_gone(content(file_));
    tell(job);
}

void RunLock::tell(const std::string& job) {
    const std::string text = fmt::format("process {} on {}, job {}, since {:%Y-%m-%d %H:%M:%S}\n", ::getpid(),
                                         host_name(), job, fmt::localtime(std::time(nullptr)));
    if (::ftruncate(file_.number(), 0) != 0 ||
        ::pwrite(file_.number(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
        throw SystemError(fmt::format("cannot write {}: {}", path_.string(), std::strerror(errno)));
}

} // namespace tessera
