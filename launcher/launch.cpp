// SPDX-License-Identifier: Apache-2.0
// `tessera launch`: checks the config, then starts `tessera train` on every rank, bound to cores in a way that works.
#include "core/config.hpp"

#include "core/config_catalog.hpp"
#include "launcher/commands.hpp"
#include "launcher/start_ranks.hpp"

namespace tessera {
namespace {

int run_launch(const Arguments& arguments, Process&) {
    const std::vector<std::string>& words = arguments.words();
    Config::load(words[0], {words.begin() + 1, words.end()}, known_keys()); // refuses before anything is started
    std::vector<std::string> program{"train"};
    program.insert(program.end(), words.begin(), words.end());
    return start_ranks("launch", program, arguments);
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

SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask the run to save and stop, SIGUSR2 to save
and go on. Whatever still runs after the grace time, or at a second SIGINT or
SIGTERM, is ended.
The exit code is that of the run.

Examples
  tessera launch -n 4 configs/quickstart.toml training.steps=100
  tessera launch -n 2 --threads 8 --dry-run configs/quickstart.toml
)",
             options_of_ranks(), 1, 100'000},
            run_launch};
}

} // namespace tessera
