// SPDX-License-Identifier: Apache-2.0
// A bench in processes of its own: planning has no MPI.
#include "launcher/measured_host.hpp"

#include "core/run/experiment.hpp"
#include "kernels/error.hpp"
#include "launcher/diagnosis/surroundings.hpp"
#include "launcher/job/remote.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t ranks_of_a_core = 4;
constexpr std::chrono::seconds bench_within{300};

// Removed with what is in it.
class TemporaryFolder {
public:
    TemporaryFolder() {
        const char* below = std::getenv("TMPDIR");
        path_ = fmt::format("{}/tessera-bench-XXXXXX", below == nullptr || *below == '\0' ? "/tmp" : below);
        if (::mkdtemp(path_.data()) == nullptr)
            throw SystemError(fmt::format("cannot make {}: {}", path_, std::strerror(errno)));
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code ignored; // what was to be read is
        std::filesystem::remove_all(path_, ignored);
    }
    std::string file(const std::string& name) const { return path_ + '/' + name; }

private:
    std::string path_;
};

void check_room(const Config& config, const HostShape& host, int ranks) {
    const std::string device = config.get(run_device);
    const bool gpus = built_with_cuda && (device == "cuda" || (device == "auto" && !host.gpus.empty()));
    const auto places = static_cast<std::int64_t>(gpus ? host.gpus.size() : host.cores.size() * ranks_of_a_core);
    if (ranks > places)
        throw ConfigError(fmt::format("{} are more than can be measured on this host of {}: say --machine FILE, a file "
                                      "of cluster/machines or of `tessera bench --save`",
                                      counted(ranks, "rank"),
                                      gpus ? counted(static_cast<std::int64_t>(host.gpus.size()), "GPU")
                                           : counted(static_cast<std::int64_t>(host.cores.size()), "core")));
}

} // namespace

Machine measured_here(const Config& config, int ranks) {
    check_room(config, this_host().shape, ranks);
    fmt::print(stderr, "tessera plan: no --machine FILE: measuring this host on {}\n", counted(ranks, "rank"));
    const TemporaryFolder folder;
    const std::string file = folder.file("machine.toml");
    std::vector<std::string> command{this_program(), "bench", "-n", std::to_string(ranks), "--save", file};
    command.push_back(fmt::format("{}={}", run_device.name, config.get(run_device)));
    if (const std::int64_t threads = config.get(run_threads); threads > 0)
        command.push_back(fmt::format("{}={}", run_threads.name, threads));
    const Answer answer = ask_hosts({"localhost"}, "", command, bench_within)[0];
    if (!answer.came)
        throw SystemError(fmt::format("cannot measure this host, and no --machine FILE says what it is: {}",
                                      answer.text.substr(0, answer.text.find('\n'))));
    Machine machine = read_machine(file);
    machine.file = "this host, measured";
    return machine;
}

} // namespace tessera
