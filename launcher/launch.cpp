// SPDX-License-Identifier: Apache-2.0
// `tessera launch`: checks the config, then starts `tessera train` on every rank, bound to cores in a way that works.
#include "core/config.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"
#include "launcher/child.hpp"
#include "launcher/commands.hpp"
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

int run_launch(const Arguments& arguments, Process&) {
    const std::vector<std::string>& words = arguments.words();
    Config::load(words[0], {words.begin() + 1, words.end()}, known_keys()); // refuses before anything is started

    std::vector<std::string> program{std::filesystem::read_symlink("/proc/self/exe").string(), "train"};
    program.insert(program.end(), words.begin(), words.end());
    const Host host = this_host();
    const Job job = plan_job(program, arguments.integer("ranks", 1, most_ranks).value_or(0),
                             arguments.integer("threads", 1, most_threads).value_or(0), host);
    const std::int64_t grace = arguments.integer("grace", 0, most_grace).value_or(usual_grace);
    for (const std::string& note : job.notes)
        fmt::print(stderr, "tessera launch: {}\n", note);
    if (arguments.has("dry-run")) {
        fmt::print("{}", job_text(job, host));
        return 0;
    }
    return run_child(job.command, job.environment, std::chrono::seconds(grace));
}

} // namespace

Command launch_command() {
    return {"launch",
            "train on several ranks, with mpirun or srun",
            {"launch [OPTION…] CONFIG [section.key=value …]",
             R"(Checks the config, then runs `tessera train CONFIG …` on every rank: with srun
inside a Slurm allocation, with mpirun otherwise. Each rank is bound to as many
cores of its own as it has threads; when there are not enough, the ranks share
the cores unbound, and a line says so.

SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask the run to save and stop. Whatever still
runs after the grace time, or at a second SIGINT or SIGTERM, is ended.
The exit code is that of the run.

Examples
  tessera launch -n 4 configs/quickstart.toml training.steps=100
  tessera launch -n 2 --threads 8 --dry-run configs/quickstart.toml
)",
             {{"ranks,n", "N", "number of ranks (default: Slurm's tasks, or 1)"},
              {"threads,t", "T",
               "threads of each rank (default: OMP_NUM_THREADS, Slurm's CPUs per task, or cores / ranks)"},
              {"grace", "SECONDS", "time to save and stop in (default: 120)"},
              {"dry-run", "", "show the command, its environment and the cores of each rank; start nothing"}},
             1,
             100'000},
            run_launch};
}

} // namespace tessera
