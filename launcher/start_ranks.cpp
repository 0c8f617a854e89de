// SPDX-License-Identifier: Apache-2.0
// From a host and a number of ranks to running processes.
#include "launcher/start_ranks.hpp"

#include "launcher/child.hpp"
#include "launcher/job.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::int64_t most_grace = 86'400, usual_grace = 120; // seconds

Host this_host() {
    Host host;
    host.cores = usable_cores();
    host.environment = [](const std::string& name) {
        const char* value = std::getenv(name.c_str());
        return std::string(value == nullptr ? "" : value);
    };
    host.root = ::geteuid() == 0;
    host.srun_has_pmix = [] { return output_of({"srun", "--mpi=list"}).find("pmix") != std::string::npos; };
    return host;
}

} // namespace

std::vector<Option> options_of_ranks() {
    return {
        {"ranks,n", "N", "number of ranks (default: Slurm's tasks, or 1)"},
        {"threads,t", "T", "threads of each rank (default: OMP_NUM_THREADS, Slurm's CPUs per task, or cores / ranks)"},
        {"grace", "SECONDS", "time to save and stop in (default: 120)"},
        {"dry-run", "", "show the command, its environment and the cores of each rank; start nothing"}};
}

int start_ranks(const std::string& name, const std::vector<std::string>& words, const Arguments& arguments) {
    std::vector<std::string> program{std::filesystem::read_symlink("/proc/self/exe").string()};
    program.insert(program.end(), words.begin(), words.end());
    const Host host = this_host();
    const Job job = plan_job(program, arguments.integer("ranks", 1, most_ranks).value_or(0),
                             arguments.integer("threads", 1, most_threads).value_or(0), host);
    const std::int64_t grace = arguments.integer("grace", 0, most_grace).value_or(usual_grace);
    for (const std::string& note : job.notes)
        fmt::print(stderr, "tessera {}: {}\n", name, note);
    if (arguments.has("dry-run")) {
        fmt::print("{}", job_text(job, host));
        return 0;
    }
    return run_child(job.command, job.environment, std::chrono::seconds(grace));
}

} // namespace tessera
