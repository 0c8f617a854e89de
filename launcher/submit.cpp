// SPDX-License-Identifier: Apache-2.0
// `tessera submit`: checks a run, writes the script of its job, gives it to Slurm, and follows it.
#include "core/config_catalog.hpp"
#include "core/exit_codes.hpp"
#include "core/run/folder.hpp"
#include "core/run/memory_limit.hpp"
#include "core/run/text_file.hpp"
#include "core/run/trainer.hpp"
#include "kernels/error.hpp"
#include "launcher/setup.hpp"
#include "launcher/slurm/slurm_jobs.hpp"
#include "launcher/slurm/submit_script.hpp"

#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_per_node = 4096, most_nodes = 1 << 20, most_jobs = 1000;
constexpr std::int64_t most_seconds = 65'535; // of --signal, by Slurm's manual

// Refuses what no rank of the run could do. On one host fewer things are possible than on many, and which hosts these
// will be is not known.
void check_run(const Submission& job, const Words& overrides, std::int64_t nodes) {
    Config config = Config::load(job.config, overrides, known_keys());
    settle_run_folder(config);
    const Stream stream = make_planning_stream(config);
    const std::unique_ptr<Dataset> dataset = data_of(config);
    const auto ranks = static_cast<int>(nodes * job.ranks_per_node);
    const RankView view{0, ranks, nodes == 1};
    settle_recompute(config, view, dataset.get(), stream);
    const Experiment experiment = plan_training(config, view, dataset.get(), stream);
    Trainer::check_keys(config, experiment);
    config.refuse_unread();
}

void read_nodes(const std::string& text, Submission& job) {
    const std::size_t dash = text.find('-');
    job.least_nodes = parse_integer("--nodes", text.substr(0, dash), 1, most_nodes);
    job.most_nodes = job.least_nodes;
    if (dash != std::string::npos) job.most_nodes = parse_integer("--nodes", text.substr(dash + 1), 1, most_nodes);
    if (job.most_nodes < job.least_nodes)
        throw ConfigError(fmt::format("--nodes {}: expected N, or the fewest and the most as N-M", text));
}

Submission read_submission(const Arguments& arguments) {
    Submission job;
    job.program = fs::read_symlink("/proc/self/exe").string();
    job.said = arguments.all();
    job.said.insert(job.said.begin(), "submit");
    job.config = arguments.words()[0];
    job.overrides = {arguments.words().begin() + 1, arguments.words().end()};
    Config config = Config::load(job.config, job.overrides, known_keys());
    job.folder = settle_run_folder(config).string();
    job.begins_elsewhere = config.get(checkpoint_resume) != "auto";
    job.job_name = arguments.text("job-name").value_or(config.get(run_name));
    read_nodes(arguments.text("nodes").value_or("1"), job);
    job.gpus_per_node = arguments.integer("gpus-per-node", 1, most_per_node).value_or(0);
    job.ranks_per_node =
        arguments.integer("ranks-per-node", 1, most_per_node).value_or(std::max<std::int64_t>(job.gpus_per_node, 1));
    job.cpus_per_rank = arguments.integer("cpus-per-rank", 1, most_per_node).value_or(1);
    job.signal_before = arguments.integer("signal-before", 1, most_seconds).value_or(job.signal_before);
    job.most_starts = arguments.integer("max-starts", 1, 1'000'000).value_or(job.most_starts);
    job.time = arguments.text("time").value_or("");
    job.partition = arguments.text("partition").value_or("");
    job.account = arguments.text("account").value_or("");
    job.qos = arguments.text("qos").value_or("");
    job.options = arguments.texts("sbatch-option");
    job.chained = arguments.has("chain");
    job.at_once = arguments.integer("at-once", 1, most_jobs).value_or(0);
    if (arguments.has("sweep")) job.sweep = combinations(arguments.texts("sweep"));
    if (arguments.has("time") && seconds_of(job.time) <= job.signal_before)
        throw ConfigError(fmt::format("--signal-before {}: the signal would come before the run: --time {} is {} s",
                                      job.signal_before, job.time, seconds_of(job.time)));
    if (job.at_once > 0 && job.sweep.empty()) throw ConfigError("--at-once is of an array: say --sweep, too");
    if (job.chained && !job.sweep.empty())
        throw ConfigError("--chain: one job after the other would run all runs of the --sweep at once");
    return job;
}

void check_runs(const Submission& job) {
    for (std::int64_t nodes : {job.least_nodes, job.most_nodes}) {
        if (job.sweep.empty()) check_run(job, job.overrides, nodes);
        for (const Words& task : job.sweep) {
            Words overrides = job.overrides;
            overrides.insert(overrides.end(), task.begin(), task.end());
            check_run(job, overrides, nodes);
        }
        if (job.least_nodes == job.most_nodes) break;
    }
}

int run_submit(const Arguments& arguments, Process&) {
    const Submission job = read_submission(arguments);
    const std::int64_t jobs = arguments.integer("chain", 1, most_jobs).value_or(1);
    const std::string script = submit_script(job);
    check_runs(job);
    if (arguments.has("dry-run")) {
        fmt::print("{}", script);
        return exit_code::done;
    }
    const std::size_t tasks = std::max<std::size_t>(job.sweep.size(), 1);
    for (std::size_t task = 0; task < tasks; ++task) // Slurm makes no folder for a log
        fs::create_directories(task_folder(job, std::to_string(task)));
    const std::string file = job.folder + "/job.sbatch";
    replace_file(file, script);
    FollowedJobs followed;
    for (std::int64_t i = 0; i < jobs; ++i)
        followed.numbers.push_back(submit_to_slurm(file, job.chained ? std::to_string(i + 1) : ""));
    if (job.sweep.empty()) followed.log = log_of(job.folder);
    fmt::print("submitted {}: job {}\nlog: {}\n", file, fmt::join(followed.numbers, ", "),
               log_of(task_folder(job, "TASK")));
    std::fflush(stdout);
    return arguments.has("follow") ? follow(followed) : exit_code::done;
}

} // namespace

Command submit_command() {
    return {"submit",
            "train as a job of Slurm that goes on after its time limit",
            {"submit [OPTION…] CONFIG [section.key=value …]",
             R"(Checks the config, writes RUN/job.sbatch, and gives it to sbatch. The job asks the
run to save before its time is over, goes back to the queue when the run was stopped
or has lost a rank, and goes on from the newest checkpoint on whatever nodes it gets.
It ends when training is done, diverged, or has an error that a person must mend.
)",
             {{"nodes,N", "N", "nodes, or the fewest and the most: 2-4 (default 1)"},
              {"ranks-per-node", "R", "ranks on each (default: its GPUs, or 1)"},
              {"cpus-per-rank", "C", "cores, and threads, of each rank (default 1)"},
              {"gpus-per-node", "G", "GPUs of each node"},
              {"time,t", "LIMIT", "time limit: MINUTES, HH:MM:SS or D-HH:MM:SS"},
              {"partition,p", "NAME", ""},
              {"account", "NAME", ""},
              {"qos", "NAME", ""},
              {"job-name", "NAME", "(default: the run's)"},
              {"signal-before", "S", "seconds to save in before the limit (default 120)"},
              {"max-starts", "N", "starts in all of a job that loses ranks (default 20)"},
              {"chain", "K", "K jobs, one after the other, none of which is requeued"},
              {"sweep", "KEY=V,W", "an array: a run in RUN/0, RUN/1, … for each value; again for more keys", true},
              {"at-once", "N", "of which so many run at the same time"},
              {"sbatch-option", "--O=V", "one more line for sbatch; may be repeated", true},
              {"follow,f", "", "show states and log until it ends, with its exit code; Ctrl-C leaves it"},
              {"dry-run", "", "print the script, and submit nothing"}},
             1,
             1000},
            run_submit};
}

} // namespace tessera
