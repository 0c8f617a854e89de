// SPDX-License-Identifier: Apache-2.0
// A bench in processes of its own: planning has no MPI.
#include "launcher/measured_host.hpp"

#include "core/run/experiment.hpp"
#include "kernels/error.hpp"
#include "launcher/diagnosis/surroundings.hpp"
#include "launcher/job/remote.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

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

// From cluster/machines: cpu_100gb.toml, of one core, and h100_ndr.toml.
constexpr const char* usual_core = R"([rank]
f32_flops = 150e9
memory_bandwidth = 7e9
call_seconds = 3e-6
memory_gib = 1
[node]
alpha = 1e-6
beta = 7e9
[network]
alpha = 30e-6
beta = 1.4e9
)";
constexpr const char* usual_gpu = R"([rank]
device = "cuda"
f32_flops = 66.9e12
tf32_flops = 494.7e12
bf16_flops = 989.4e12
product_efficiency = 0.484
attention_efficiency = 0.34
memory_bandwidth = 2.9e12
call_seconds = 2e-6
memory_gib = 1e6
[node]
alpha = 1.5e-6
beta = 360e9
[network]
alpha = 3e-6
beta = 47e9
)";

bool computes_on_gpus(const Config& config, const HostShape& host) {
    const std::string device = config.get(run_device);
    return built_with_cuda && (device == "cuda" || (device == "auto" && !host.gpus.empty()));
}

void check_room(const Config& config, const HostShape& host, int ranks) {
    const bool gpus = computes_on_gpus(config, host);
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

Machine usual_host(const Config& config, int ranks) {
    const HostShape host = this_host().shape;
    const bool gpus = computes_on_gpus(config, host);
    Machine machine = parse_machine(gpus ? usual_gpu : usual_core, "a usual host");
    const auto threads = std::max<std::size_t>(static_cast<std::size_t>(config.get(run_threads)), 1);
    const std::size_t places = gpus ? host.gpus.size() : host.cores.size() / threads;
    machine.ranks_per_node = static_cast<int>(std::clamp<std::size_t>(places, 1, static_cast<std::size_t>(ranks)));
    if (!gpus)
        machine.memory_bytes =
            std::int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE) / machine.ranks_per_node;
    return machine;
}

} // namespace tessera
