// SPDX-License-Identifier: Apache-2.0
// `tessera launch`: checks the config, then starts `tessera train` on every rank, bound to cores in a way that works,
// and again when a rank was lost.
#include "core/config_catalog.hpp"
#include "core/run/folder.hpp"
#include "kernels/error.hpp"
#include "launcher/commands.hpp"
#include "launcher/job/start_ranks.hpp"
#include "launcher/job/supervise.hpp"
#include "launcher/smaller_layout.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t most_restarts = 1'000'000, most_delay = 86'400;

int run_launch(const Arguments& arguments, Process&) {
    const std::vector<std::string>& words = arguments.words();
    Config config = Config::load(words[0], {words.begin() + 1, words.end()}, known_keys()); // refuses before any start
    const std::filesystem::path folder = std::filesystem::absolute(settle_run_folder(config));
    std::vector<std::string> program{"train"};
    program.insert(program.end(), words.begin(), words.end());

    Supervision supervision;
    supervision.max_restarts = arguments.integer("max-restarts", 0, most_restarts).value_or(0);
    if (supervision.max_restarts == 0)
        for (const char* option : {"restart-delay", "min-ranks"})
            if (arguments.has(option))
                throw ConfigError(fmt::format("--{} is of restarts: say --max-restarts, too", option));
    supervision.restart_delay = std::chrono::seconds(arguments.integer("restart-delay", 0, most_delay).value_or(1));
    supervision.min_ranks = arguments.integer("min-ranks", 1, most_ranks).value_or(0);
    supervision.patience.grace = grace_of(arguments);
    supervision.patience.start = std::chrono::seconds(
        arguments.integer("start-timeout", 1, most_delay).value_or(supervision.patience.start.count()));
    supervision.run_folder = folder;
    if (const std::optional<std::string> fault = arguments.text("plant")) supervision.once = {"--plant", *fault};
    supervision.fit = [&](const LayoutQuestion& question, std::string& refusal) {
        return words_to_fit(config, words, question, refusal);
    };

    Wish wish = wish_of(arguments);
    wish.output = folder;
    if (supervision.min_ranks > 0 && wish.hosts.empty())
        throw ConfigError("--min-ranks is of several hosts: say --hosts or --hostfile, too");
    if (arguments.has("dry-run")) return show_job("launch", program, wish);
    program.insert(program.begin(), this_program());
    return supervise(program, wish, supervision);
}

} // namespace

Command launch_command() {
    std::vector<Option> options = options_of_ranks();
    options.insert(options.end() - 2,
                   {{"max-restarts", "N", "start again after a lost rank, at most N times (default: 0)"},
                    {"restart-delay", "SECONDS", "wait before it, twice as long each time (default: 1)"},
                    {"min-ranks", "M", "go on with fewer ranks when hosts are lost, but at least M"},
                    {"start-timeout", "SECONDS", "within which all ranks must be there (default: 300)"},
                    {"plant", "FAULT", "a fault for the first attempt, as `tessera train` has it"}});
    return {"launch",
            "train on several ranks and hosts, with mpirun or srun",
            {"launch [OPTION…] CONFIG [section.key=value …]",
             R"(Checks the config, then runs `tessera train CONFIG …` on every rank: with srun
inside a Slurm allocation, with mpirun otherwise. Each rank is bound to as many
cores of its own as it has threads, in one NUMA node; where there are not enough,
ranks share them unbound. Rank 0 speaks here, all others in the run's logs/.

SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask the run to save and stop, SIGUSR2 to save.
What still runs after the grace time, or at a second SIGINT or SIGTERM, is ended.
Restarts begin from the newest good checkpoint. The exit code is the run's.

Examples
  tessera launch --hosts a:8,b:8 --max-restarts 20 --min-ranks 8 CONFIG
  tessera launch -n 2 --threads 8 --dry-run configs/quickstart.toml
)",
             options, 1, 100'000},
            run_launch};
}

} // namespace tessera
