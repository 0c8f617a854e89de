// SPDX-License-Identifier: Apache-2.0
// How a run is started by Open MPI's mpirun, or by srun inside a Slurm allocation.
#include "launcher/job.hpp"

#include "launcher/command_line.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

// Steps that Slurm itself opens (batch, interactive, extern) have numbers from here on; srun works inside those.
constexpr std::int64_t first_special_step = 4294967000;

std::int64_t variable(const Host& host, const std::string& name, std::int64_t most, std::int64_t fallback) {
    const std::string text = host.environment(name);
    return text.empty() ? fallback : parse_integer(name, text, 1, most);
}

bool in_allocation(const Host& host) {
    if (host.environment("SLURM_JOB_ID").empty()) return false;
    const std::string step = host.environment("SLURM_STEP_ID");
    const bool number =
        !step.empty() && std::all_of(step.begin(), step.end(), [](char c) { return c >= '0' && c <= '9'; });
    return !number || std::stoll(step) >= first_special_step;
}

void start_with_srun(Job& job) {
    job.slurm = true;
    job.command = {"srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--input=none"};
    job.command.push_back(fmt::format("--ntasks={}", job.binding.ranks));
    if (job.binding.bound) {
        job.command.push_back(fmt::format("--cpus-per-task={}", job.binding.threads));
        job.command.push_back("--cpu-bind=cores");
    } else {
        job.command.push_back("--overcommit");
        job.command.push_back("--cpu-bind=none");
    }
}

void start_with_mpirun(Job& job, const Host& host, bool one_host) {
    job.command = {"mpirun", "-n", std::to_string(job.binding.ranks)};
    if (job.binding.bound)
        job.command.insert(job.command.end(),
                           {"--map-by", fmt::format("slot:PE={}", job.binding.threads), "--bind-to", "core"});
    else
        job.command.insert(job.command.end(), {"--bind-to", "none", "--oversubscribe"});
    if (host.root) {
        job.environment["OMPI_ALLOW_RUN_AS_ROOT"] = "1";
        job.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
    }
    // Shared memory only: probing network interfaces costs time and fails in some containers.
    if (one_host && host.environment("OMPI_MCA_btl").empty()) job.environment["OMPI_MCA_btl"] = "self,vader";
}

} // namespace

std::string quoted(const std::string& word) {
    const char* const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%^";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
    std::string result = "'";
    for (const char character : word)
        result += character == '\'' ? std::string("'\\''") : std::string(1, character);
    return result + "'";
}

Job plan_job(const std::vector<std::string>& program, std::int64_t ranks, std::int64_t threads, const Host& host) {
    Job job;
    const bool slurm = in_allocation(host);
    const std::int64_t hosts = slurm ? variable(host, "SLURM_JOB_NUM_NODES", most_ranks, 1) : 1;
    if (ranks == 0) ranks = slurm ? variable(host, "SLURM_NTASKS", most_ranks, 1) : 1;
    if (threads == 0) threads = variable(host, "OMP_NUM_THREADS", most_threads, 0);
    if (threads == 0 && slurm) threads = variable(host, "SLURM_CPUS_PER_TASK", most_threads, 0);
    job.binding = choose_binding(ranks, threads, static_cast<std::int64_t>(host.cores.size()) * hosts);

    if (slurm && host.srun_has_pmix()) {
        start_with_srun(job);
    } else {
        if (slurm) job.notes.push_back("srun has no pmix, which Open MPI needs: starting with mpirun instead");
        start_with_mpirun(job, host, hosts == 1);
    }
    job.environment["OMP_NUM_THREADS"] = std::to_string(job.binding.threads);
    if (!job.binding.bound) {
        // Without these a rank or a thread that waits keeps the core from the one it waits for: 8 ms an all-reduce
        // against 0.01 ms, and 20 small steps of 3 ranks x 2 threads on 2 busy cores in 59 s against 1.5 s.
        job.environment["OMPI_MCA_mpi_yield_when_idle"] = "1";
        if (host.environment("OMP_WAIT_POLICY").empty()) job.environment["OMP_WAIT_POLICY"] = "passive";
        job.notes.push_back(job.binding.note());
    }
    job.command.insert(job.command.end(), program.begin(), program.end());
    return job;
}

std::string job_text(const Job& job, const Host& host) {
    std::string text = "command:";
    for (const std::string& word : job.command)
        text += ' ' + quoted(word);
    text += "\nenvironment:";
    for (const auto& [name, value] : job.environment)
        text += fmt::format(" {}={}", name, quoted(value));
    text += '\n';
    if (!job.binding.bound || job.slurm) {
        text += fmt::format("ranks: {}, {}\n", job.binding.ranks, job.slurm ? "placed by Slurm" : "not bound to cores");
        return text;
    }
    for (std::int64_t rank = 0; rank < job.binding.ranks; ++rank) {
        const auto first = host.cores.begin() + rank * job.binding.threads;
        text += fmt::format("rank {}: {} {}\n", rank, job.binding.threads == 1 ? "core" : "cores",
                            fmt::join(first, first + job.binding.threads, ","));
    }
    return text;
}

} // namespace tessera
