// SPDX-License-Identifier: Apache-2.0
// The lines for sbatch, and the shell that hands signals on and decides what an exit code means for the job.
#include "launcher/slurm/submit_script.hpp"

#include "core/exit_codes.hpp"
#include "kernels/error.hpp"
#include "launcher/command_line.hpp"
#include "launcher/job/job.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <set>

namespace tessera {
namespace {

constexpr std::size_t most_tasks = 1000; // Slurm's MaxArraySize where nobody changed it, less one

void refuse_line_breaks(const std::string& what, const std::string& text) {
    for (const char c : text)
        if (static_cast<unsigned char>(c) < 0x20)
            throw ConfigError(fmt::format("{}: a batch script cannot hold a line break or control character", what));
}

// Slurm's parser of #SBATCH lines knows blanks, quotes, backslashes and #; none of them is needed in a name.
std::string checked_name(const char* option, const std::string& name) {
    const auto plain = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               std::string_view("_-+.,:@").find(c) != std::string_view::npos;
    };
    if (name.empty() || !std::all_of(name.begin(), name.end(), plain))
        throw ConfigError(fmt::format("--{} '{}': expected letters, digits and _ - + . , : @", option, name));
    return name;
}

// For #SBATCH --output, where % begins a name of Slurm's; `text` holds no % that is meant so.
std::string escaped(const std::string& folder) {
    if (folder.find_first_of("\"'\\") != std::string::npos)
        throw ConfigError(fmt::format("run.folder = '{}': a batch script's log cannot lie in a folder with quotes or "
                                      "backslashes",
                                      folder));
    std::string result;
    for (const char c : folder)
        result += c == '%' ? std::string("%%") : std::string(1, c);
    return result;
}

std::string directives(const Submission& job) {
    std::string text;
    const auto add = [&](const std::string& option) { text += "#SBATCH " + option + '\n'; };
    add("--job-name=" + checked_name("job-name", job.job_name));
    add(job.least_nodes == job.most_nodes ? fmt::format("--nodes={}", job.least_nodes)
                                          : fmt::format("--nodes={}-{}", job.least_nodes, job.most_nodes));
    add(fmt::format("--ntasks-per-node={}", job.ranks_per_node));
    add(fmt::format("--cpus-per-task={}", job.cpus_per_rank));
    if (job.gpus_per_node > 0) add(fmt::format("--gpus-per-node={}", job.gpus_per_node));
    if (!job.time.empty()) add("--time=" + job.time);
    if (!job.partition.empty()) add("--partition=" + checked_name("partition", job.partition));
    if (!job.account.empty()) add("--account=" + checked_name("account", job.account));
    if (!job.qos.empty()) add("--qos=" + checked_name("qos", job.qos));
    if (!job.sweep.empty())
        add(fmt::format("--array=0-{}{}", job.sweep.size() - 1,
                        job.at_once > 0 ? fmt::format("%{}", job.at_once) : ""));
    add(fmt::format("--signal=B:USR1@{}", job.signal_before));
    if (job.chained) add("--dependency=singleton");
    add(job.chained ? "--no-requeue" : "--requeue");
    add("--open-mode=append");
    const std::string folder = escaped(job.folder);
    add(fmt::format("--output=\"{}\"", log_of(job.sweep.empty() ? folder : folder + "/%a")));
    for (const std::string& option : job.options) {
        refuse_line_breaks("--sbatch-option", option);
        if (!option.starts_with("--") || option.size() == 2)
            throw ConfigError(fmt::format("--sbatch-option '{}': expected a whole option, as --mem=0", option));
        add(option);
    }
    return text;
}

std::string array_of(const Words& words, const char* indent) {
    std::string text;
    for (const std::string& word : words) {
        refuse_line_breaks("'" + word.substr(0, word.find('\n')) + "'", word);
        text += (text.empty() ? "" : indent) + quoted(word);
    }
    return text;
}

std::string words_of_tasks(const Submission& job) {
    std::string text = "case $SLURM_ARRAY_TASK_ID in\n";
    for (std::size_t i = 0; i < job.sweep.size(); ++i)
        text += fmt::format("    {}) words+=({}) ;;\n", i, array_of(job.sweep[i], " "));
    return text + "esac\n" + fmt::format("words+=(run.folder={}/\"$SLURM_ARRAY_TASK_ID\")\n", quoted(job.folder));
}

// A run that begins with nothing, or with a checkpoint of another, goes on with its own.
std::string going_on(const Submission& job) {
    return fmt::format(R"x(
run_folder={}
mkdir -p "$run_folder"
[ "$starts" -gt 1 ] || touch "$run_folder/job.begin"
if [ -n "$(find "$run_folder/checkpoints" -maxdepth 1 -name 'step-*' -newer "$run_folder/job.begin" 2>/dev/null)" ]; then
    words+=(checkpoint.resume=auto)
fi
)x",
                       job.sweep.empty() ? quoted(job.folder) : quoted(job.folder) + "/\"$SLURM_ARRAY_TASK_ID\"");
}

constexpr const char* run_it = R"(asked=no
run=
save_and_stop() {
    asked=yes
    [ -z "$run" ] || kill -USR1 "$run"
}
trap save_and_stop USR1 TERM
trap '[ -z "$run" ] || kill -USR2 "$run"' USR2 # save and go on

"$tessera" launch "${options[@]}" "${words[@]}" &
run=$!
[ "$asked" = no ] || kill -USR1 "$run"
wait "$run"
code=$?
while kill -0 "$run" 2>/dev/null; do # a signal ended the wait, not the run
    wait "$run"
    code=$?
done
wait "$run" # its code is kept, and the last of the waits before may have ended by a signal
code=$?
)";

// What the codes of core/exit_codes.hpp mean for a job that may go back to the queue.
std::string ending(const Submission& job) {
    using namespace exit_code;
    std::string text = "echo \"job $SLURM_JOB_ID: the run ended with code $code\"\n";
    if (job.chained) return text + "exit \"$code\" # the next job of this name goes on\n";
    text += fmt::format(R"(case $code in
    {}) again=yes ;;                 # stopped, with a checkpoint
    {} | {} | {} | {} | {}) again=no ;; # done, or the same would come of it
    *)                             # lost a rank or a node, or stopped before it could save
        again=no
        if [ "$code" = {} ] || [ "$code" -gt 128 ] || [ "$asked" = yes ]; then
            [ "$starts" -ge {} ] || again=yes
        fi
        ;;
esac
if [ "$again" = yes ] && scontrol requeue "$SLURM_JOB_ID"; then
    echo "job $SLURM_JOB_ID: goes back to the queue"
fi
exit "$code"
)",
                        run_again, done, usage, data, diverged, interrupted, lost, job.most_starts);
    return text;
}

} // namespace

std::string log_of(const std::string& run_folder) { return run_folder + "/job.log"; }

std::string task_folder(const Submission& submission, const std::string& task) {
    return submission.sweep.empty() ? submission.folder : submission.folder + "/" + task;
}

std::string submit_script(const Submission& job) {
    refuse_line_breaks("run.folder", job.folder);
    refuse_line_breaks("the path of tessera", job.program);
    Words words{job.config};
    words.insert(words.end(), job.overrides.begin(), job.overrides.end());
    const std::string options = fmt::format("-n \"$((SLURM_JOB_NUM_NODES * {}))\" --threads {} --grace {}",
                                            job.ranks_per_node, job.cpus_per_rank, job.signal_before);
    std::string text = "#!/bin/bash\n# tessera " + array_of(job.said, " ") + "\n" + directives(job);
    text += "\nset -u\ntessera=" + quoted(job.program) + "\noptions=(" + options + ")\nwords=(" + array_of(words, " ") +
            ")\n";
    if (!job.sweep.empty()) text += words_of_tasks(job);
    // A job of a chain has its number there as an argument.
    text += fmt::format("starts=$((${{SLURM_RESTART_COUNT:-0}} + {}))\n", job.chained ? "${1:-1}" : "1");
    text += "echo \"job $SLURM_JOB_ID: start $starts on $SLURM_JOB_NODELIST\"\n";
    if (job.begins_elsewhere) text += going_on(job);
    text += '\n';
    return text + run_it + ending(job);
}

std::vector<Words> combinations(const Words& sweeps) {
    std::vector<Words> all{{}};
    std::set<std::string> keys;
    for (const std::string& sweep : sweeps) {
        const std::size_t equals = sweep.find('=');
        const std::string key = sweep.substr(0, equals);
        if (equals == std::string::npos || key.empty() || equals + 1 == sweep.size())
            throw ConfigError(fmt::format("--sweep '{}': expected section.key=VALUE,VALUE,…", sweep));
        if (key == "run.folder") throw ConfigError("--sweep: each run has a folder of its own anyway");
        if (!keys.insert(key).second) throw ConfigError(fmt::format("--sweep: {} is swept twice", key));
        std::vector<Words> longer;
        for (const Words& words : all)
            for (std::size_t at = equals + 1; at <= sweep.size();) {
                const std::size_t comma = std::min(sweep.find(',', at), sweep.size());
                longer.push_back(words);
                longer.back().push_back(key + '=' + sweep.substr(at, comma - at));
                at = comma + 1;
                if (longer.size() > most_tasks)
                    throw ConfigError(fmt::format("--sweep: more than {} runs", most_tasks));
            }
        all = std::move(longer);
    }
    return all;
}

std::int64_t seconds_of(const std::string& time) {
    const auto refuse = [&] {
        throw ConfigError(
            fmt::format("--time '{}': expected minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS", time));
    };
    const std::size_t dash = time.find('-');
    const bool days = dash != std::string::npos;
    std::vector<std::int64_t> parts;
    for (std::size_t at = days ? dash + 1 : 0; at <= time.size();) {
        const std::size_t colon = std::min(time.find(':', at), time.size());
        const std::string digits = time.substr(at, colon - at);
        if (digits.empty() || digits.size() > 6 || digits.find_first_not_of("0123456789") != std::string::npos)
            refuse();
        parts.push_back(std::stoll(digits));
        at = colon + 1;
    }
    if (parts.size() > 3) refuse();
    std::int64_t seconds = 0;
    if (days) {
        parts.resize(3, 0); // hours, minutes, seconds
        const std::string digits = time.substr(0, dash);
        if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos)
            refuse();
        seconds = std::stoll(digits) * 86'400;
    } else if (parts.size() < 3) {
        parts.insert(parts.begin(), 0); // minutes first
        parts.resize(3, 0);
    }
    seconds += parts[0] * 3600 + parts[1] * 60 + parts[2];
    if (seconds == 0) refuse();
    return seconds;
}

} // namespace tessera
