// SPDX-License-Identifier: Apache-2.0
// `tessera bench`: what this machine's ranks can do, measured, as a file that `tessera plan --search` reads.
#include "core/config_catalog.hpp"
#include "core/run/measure_machine.hpp"
#include "core/run/text_file.hpp"
#include "kernels/error.hpp"
#include "launcher/job/start_ranks.hpp"
#include "launcher/setup.hpp"

#include <fmt/format.h>
#include <fstream>

namespace tessera {
namespace {

// Of the host, in bytes: what a CPU rank has is a share of it.
std::int64_t host_memory() {
    std::ifstream file("/proc/meminfo");
    std::string name;
    std::int64_t kibibytes = 0;
    if (!(file >> name >> kibibytes) || name != "MemTotal:")
        throw SystemError("cannot read how much memory this host has from /proc/meminfo");
    return kibibytes * 1024;
}

// Whether the hosts have as many ranks each, one host after the other: only then an axis of the mesh joins the hosts.
bool by_hosts(const World& world) {
    const int local = world.local_size();
    const bool here = world.size() % local == 0 && world.rank() % local == world.local_rank();
    return world.group().all(here) && world.group().largest(local) == -world.group().largest(-local);
}

void print(const std::vector<MeasuredRate>& rates) {
    for (const MeasuredRate& rate : rates) {
        std::string text = fmt::format("  {:<34}", rate.what);
        if (rate.flops > 0) text += fmt::format("{:>12.1f} GFLOP/s", rate.flops / 1e9);
        if (rate.bytes > 0) text += fmt::format("{:>12.2f} GB/s", rate.bytes / 1e9);
        if (rate.alpha > 0) text += fmt::format("{}{:>12.2f} us", rate.bytes > 0 ? "" : "   ", rate.alpha * 1e6);
        fmt::print("{}\n", text);
    }
    std::fflush(stdout);
}

// Measures the links of both axes; `node` and `network` are filled where there are ranks to measure with.
void measure(const World& world, const Mesh& mesh, Stream& stream, Stream& host, double seconds, Machine& machine) {
    const bool speaks = world.rank() == 0;
    const auto links = [&](const std::string& name, bool shared_memory, int axis, Links& found) {
        Groups groups(world, mesh, stream, shared_memory);
        const std::vector<MeasuredRate> rates = measure_links(name, axis, {groups, stream, host, seconds}, found);
        if (speaks) print(rates);
    };
    {
        Groups groups(world, mesh, stream, true);
        const std::vector<MeasuredRate> rates = measure_rank({groups, stream, host, seconds}, machine);
        if (speaks) print(rates);
    }
    links(machine.gpu ? "NCCL, " : "shared memory, ", true, 1, machine.within_node);
    Links messages; // the table shows what shared memory is worth
    if (!machine.gpu) links("MPI on a host, ", false, 1, messages);
    links(machine.gpu ? "NCCL between hosts, " : "MPI between hosts, ", true, 0, machine.between_nodes);
}

int start_bench(const Arguments& arguments) {
    Config::parse("", "bench", arguments.words(), known_keys()); // refuses before anything is started, as the next does
    milliseconds_of(arguments);
    return start_ranks("bench", {"milliseconds", "save"}, arguments);
}

int run_bench(const Arguments& arguments, Process& process) {
    if (starts_ranks(arguments)) return start_bench(arguments);
    World& world = start_world(process);
    const Config config = Config::parse("", "bench", arguments.words(), known_keys());
    Stream stream = make_stream(config, &world);
    Stream host = make_host_stream(stream);
    config.refuse_unread();
    if (!by_hosts(world)) throw ConfigError("bench wants as many ranks on each host, and ranks numbered host by host");
    const int local = world.local_size();
    const Mesh mesh({{"hosts", world.size() / local}, {"ranks", local}});
    Machine machine;
    machine.ranks_per_node = local;
    if (world.rank() == 0) {
        fmt::print("{} on {}, {} each; all measure at once, the slowest counts\n", counted(world.size(), "rank"),
                   counted(world.size() / local, "host"), std::visit([](const auto& s) { return s.text(); }, stream));
        if (const std::string warning = thread_warning(world, stream); !warning.empty()) fmt::print("{}\n", warning);
    }
    const double seconds = static_cast<double>(milliseconds_of(arguments)) / 1000;
    measure(world, mesh, stream, host, seconds, machine);
    machine.memory_bytes = machine.gpu ? std::visit([](const auto& s) { return free_bytes(s); }, stream)
                                       : host_memory() / machine.ranks_per_node;
    if (world.rank() == 0 && arguments.has("save")) {
        replace_file(*arguments.text("save"),
                     machine_toml(machine, fmt::format("Measured by `tessera bench` on {} of {}, {} each.",
                                                       counted(world.size(), "rank"), world.host(),
                                                       std::visit([](const auto& s) { return s.text(); }, stream))));
        fmt::print("saved {}\n", *arguments.text("save"));
    }
    return 0;
}

} // namespace

Command bench_command() {
    std::vector<Option> options = options_of_ranks();
    options[0].help = "start so many ranks (without any of these: be one of those started)";
    options.insert(options.end(), {{"milliseconds", "N", "that each measurement repeats its work (default 100)"},
                                   {"save", "FILE", "write the constants as a machine's file"}});
    return {"bench",
            "measure what this machine's ranks can do",
            {"bench [OPTION…] [section.key=value …]",
             R"(Measures products, attention, memory and the links between the ranks it is
started with, or starts, with the kernels and communicators that train. The file it
saves tells `tessera plan --machine` and `--search` what time a step takes here. Links
between hosts are measured where the ranks are on several.

Examples
  tessera bench run.threads=2
  tessera bench -n 4 --save here.toml run.device=cpu
  tessera plan --search -n 4 --machine here.toml configs/quickstart.toml
)",
             options, 0, 1000},
            run_bench};
}

} // namespace tessera
