// SPDX-License-Identifier: Apache-2.0
// `tessera host`: what a host has, for people and for a launcher on another one; and the end of a job on it.
#include "kernels/error.hpp"
#include "launcher/commands.hpp"
#include "launcher/job/clean.hpp"
#include "launcher/job/host_shape.hpp"

#include <cstdlib>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>

namespace tessera {
namespace {

constexpr std::int64_t most_seconds = 3600;
constexpr std::chrono::seconds usual_time{5};

int clean(const std::string& id, std::chrono::seconds within) {
    const Cleaned cleaned = clean_this_host(id, within);
    for (const std::string& line : cleaned.left)
        fmt::print(stderr, "{}\n", line);
    fmt::print("ended {}\n",
               fmt::format("{} {} of the job", cleaned.ended, cleaned.ended == 1 ? "process" : "processes"));
    return cleaned.left.empty() ? 0 : 1;
}

void show(const HostShape& shape) {
    std::map<int, std::vector<int>> nodes;
    for (const HostShape::Core& core : shape.cores)
        nodes[core.node].push_back(core.number);
    for (const auto& [node, cores] : nodes)
        fmt::print("NUMA node {}: {}, {}\n", node, counted(static_cast<std::int64_t>(cores.size()), "core"),
                   fmt::join(cores, ","));
    for (std::size_t gpu = 0; gpu < shape.gpus.size(); ++gpu)
        fmt::print("GPU {}: {}{}\n", gpu, shape.gpus[gpu].address,
                   shape.gpus[gpu].node < 0 ? "" : fmt::format(", near NUMA node {}", shape.gpus[gpu].node));
}

int run_host(const Arguments& arguments, Process&) {
    if (const std::optional<std::string> id = arguments.text("clean"))
        return clean(*id,
                     std::chrono::seconds(arguments.integer("within", 0, most_seconds).value_or(usual_time.count())));
    if (arguments.has("within")) throw ConfigError("--within is the time of --clean: say that, too");
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    const HostShape shape = shape_of_this_host(visible == nullptr ? "" : visible);
    if (arguments.has("short"))
        fmt::print("{}\n", text_of(shape));
    else
        show(shape);
    return 0;
}

} // namespace

Command host_command() {
    return {"host",
            "show a host's cores and GPUs, or end there what a job has left",
            {"host [OPTION…]",
             R"(Shows the cores that this process may use, their NUMA nodes, and NVIDIA's GPUs with
the NUMA node each is next to: what `tessera launch` binds ranks by.

With --clean it kills every process of a job on this host and removes what Open MPI
has left of it in /tmp and /dev/shm. `tessera launch` does so on all hosts after each
attempt, and names those that do not answer: there it can be done by hand.

Examples
  tessera host
  ssh c03 tessera host --clean tessera-3f9a8b7c6d5e4f3a.1
)",
             {{"short", "", "on one line, for programs"},
              {"clean", "ID", "end the job of this id (`tessera launch` names it) on this host"},
              {"within", "SECONDS", "wait so long for processes that were killed (default: 5)"}},
             0,
             0},
            run_host};
}

} // namespace tessera
