// SPDX-License-Identifier: Apache-2.0
// flock, which network file systems pass on to their server, and a line for people in the file.
#include "launcher/job/run_lock.hpp"

#include "kernels/error.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

namespace tessera {

RunLock::RunLock(const std::filesystem::path& run_folder, const std::string& job) {
    std::error_code error;
    std::filesystem::create_directories(run_folder, error);
    if (error) throw SystemError(fmt::format("cannot make {}: {}", run_folder.string(), error.message()));
    const std::string path = run_folder / "lock";
    file_ = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (file_.number() < 0) throw SystemError(fmt::format("cannot open {}: {}", path, std::strerror(errno)));
    if (::flock(file_.number(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            std::string holder = read_available(file_);
            holder.erase(holder.find_last_not_of('\n') + 1);
            throw ConfigError(fmt::format("{} is being trained already, by {}: wait for it, or say another run.folder",
                                          run_folder.string(), holder.empty() ? "another launcher" : holder));
        }
        warning_ = fmt::format("{}: {}: a second launch of this run would go unseen", path, std::strerror(errno));
    }
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    const std::string text = fmt::format("process {} on {}, job {}, since {:%Y-%m-%d %H:%M:%S}\n", ::getpid(),
                                         host.data(), job, fmt::localtime(std::time(nullptr)));
    if (::ftruncate(file_.number(), 0) != 0 ||
        ::pwrite(file_.number(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
        throw SystemError(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
}

} // namespace tessera
