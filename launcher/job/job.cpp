// SPDX-License-Identifier: Apache-2.0
// How a run is started by Open MPI's mpirun, or by srun inside a Slurm allocation.
#include "launcher/job/job.hpp"

#include "kernels/error.hpp"
#include "launcher/command_line.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fmt/format.h>
#include <sstream>

namespace tessera {
namespace {

// Steps that Slurm itself opens (batch, interactive, extern) have numbers from here on; srun works inside those.
constexpr std::int64_t first_special_step = 4294967000;

// Open MPI's folders of a job carry its name, so that they can be removed when nobody else does it.
constexpr const char* session_parent = "/tmp/";
constexpr const char* memory_parent = "/dev/shm/";

// mpirun notices a host that went without a word after 5 + 5 * 2 seconds, not after 480; a cable that was out for 5
// seconds is forgiven.
constexpr std::array<std::pair<const char*, const char*>, 3> keepalive{{{"OMPI_MCA_oob_tcp_keepalive_time", "5"},
                                                                        {"OMPI_MCA_oob_tcp_keepalive_intvl", "2"},
                                                                        {"OMPI_MCA_oob_tcp_keepalive_probes", "5"}}};

std::int64_t variable(const Surroundings& here, const std::string& name, std::int64_t most, std::int64_t fallback) {
    const std::string text = here.environment(name);
    return text.empty() ? fallback : parse_integer(name, text, 1, most);
}

bool in_allocation(const Surroundings& here) {
    if (here.environment("SLURM_JOB_ID").empty()) return false;
    const std::string step = here.environment("SLURM_STEP_ID");
    const bool number =
        !step.empty() && std::all_of(step.begin(), step.end(), [](char c) { return c >= '0' && c <= '9'; });
    return !number || std::stoll(step) >= first_special_step;
}

const HostShape& shape_of(const HostSlots& host, const Surroundings& here) {
    const auto found = here.others.find(host.name);
    return found == here.others.end() ? here.shape : found->second;
}

// What a person has set stays.
void set_unless_set(const std::string& name, const std::string& value, const Surroundings& here, Job& job) {
    if (here.environment(name).empty()) job.environment[name] = value;
}

void start_with_srun(Job& job) {
    job.slurm = true;
    job.command = {"srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--input=none"};
    job.command.push_back(fmt::format("--ntasks={}", job.ranks));
    if (job.bound) {
        job.command.push_back(fmt::format("--cpus-per-task={}", job.threads));
        job.command.push_back("--cpu-bind=cores");
    } else {
        job.command.push_back("--overcommit");
        job.command.push_back("--cpu-bind=none");
    }
}

// Only OMPI_… reaches other hosts by itself.
void pass_on(const Surroundings& here, Job& job) {
    for (const std::string& name : here.variables) {
        const bool wanted = name == "CUDA_VISIBLE_DEVICES" || name == "CUDA_DEVICE_ORDER" ||
                            name == "LD_LIBRARY_PATH" || name.starts_with("NCCL_") || name.starts_with("UCX_") ||
                            name.starts_with("OMP_") || name.starts_with("TESSERA_") || name.starts_with("OMPI_");
        if (!wanted || job.environment.contains(name)) continue;
        if (looks_like_a_secret(name))
            job.notes.push_back(fmt::format("{} is not passed on: by its name it is a secret", name));
        else
            job.passed_on.push_back(name);
    }
    std::sort(job.passed_on.begin(), job.passed_on.end());
    std::vector<std::string> names = job.passed_on;
    for (const auto& [name, value] : job.environment)
        names.push_back(name);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names)
        if (!name.starts_with("OMPI_")) job.command.insert(job.command.end(), {"-x", name});
}

void reach_hosts(const Wish& wish, const Surroundings& here, Job& job) {
    job.command.insert(job.command.end(), {"--host", text_of(job.hosts), "--map-by", "slot"});
    // The launcher asks hosts by the same shell: no host needs a way to any other.
    job.command.insert(job.command.end(),
                       {"--mca", "plm_rsh_agent", wish.remote_shell, "--mca", "plm_rsh_no_tree_spawn", "1"});
    set_unless_set("OMPI_MCA_btl", "self,vader,tcp", here, job);
    for (const auto& [name, value] : keepalive)
        set_unless_set(name, value, here, job);
    if (wish.interface.empty()) return;
    for (const char* name : {"OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_oob_tcp_if_include"})
        job.environment[name] = wish.interface;
    if (wish.interface.find('/') == std::string::npos) set_unless_set("NCCL_SOCKET_IFNAME", wish.interface, here, job);
}

void start_with_mpirun(const Wish& wish, const Surroundings& here, bool one_host, Job& job) {
    // Ranks bind themselves (rank.cpp), each by what its own host has.
    job.command = {"mpirun", "-n", std::to_string(job.ranks), "--bind-to", "none"};
    if (!job.bound) job.command.push_back("--oversubscribe");
    if (here.root) {
        job.environment["OMPI_ALLOW_RUN_AS_ROOT"] = "1";
        job.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
    }
    set_unless_set("OMPI_MCA_orte_tmpdir_base", session_parent + job.id, here, job);
    for (const char* name : {"OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_osc_sm_backing_directory",
                             "OMPI_MCA_osc_rdma_backing_directory"})
        set_unless_set(name, memory_parent + job.id, here, job);
    // Shared memory only: probing network interfaces costs time and fails in some containers.
    if (one_host) set_unless_set("OMPI_MCA_btl", "self,vader", here, job);
    if (!wish.hosts.empty()) reach_hosts(wish, here, job);
}

std::vector<std::string> words_of_rank(const std::vector<std::string>& program, const Wish& wish, const Job& job) {
    std::vector<std::string> words{program[0], "rank", "--job", job.id};
    if (job.bound && !job.slurm) words.insert(words.end(), {"--bind", std::to_string(job.threads)});
    if (!wish.output.empty()) words.insert(words.end(), {"--output", wish.output});
    words.push_back("--");
    words.insert(words.end(), program.begin() + 1, program.end());
    return words;
}

void settle_threads(const Wish& wish, const Surroundings& here, bool slurm, Job& job) {
    const auto count = static_cast<std::int64_t>(job.hosts.size());
    job.threads = wish.threads;
    if (job.threads == 0) job.threads = variable(here, "OMP_NUM_THREADS", most_threads, 0);
    if (job.threads == 0 && slurm) job.threads = variable(here, "SLURM_CPUS_PER_TASK", most_threads, 0);
    const bool chosen = job.threads == 0;
    if (chosen) job.threads = most_threads;
    for (std::int64_t i = 0; i < count; ++i) {
        const HostSlots& host = job.hosts[static_cast<std::size_t>(i)];
        if (chosen) job.threads = std::min(job.threads, threads_that_fit(host.slots, shape_of(host, here)));
    }
    for (const HostSlots& host : job.hosts) {
        const HostShape& shape = shape_of(host, here);
        if (cores_suffice(host.slots, job.threads, shape)) continue;
        if (job.bound)
            job.notes.push_back(fmt::format("{} of {} on {}{}: ranks are not bound and share the cores",
                                            counted(host.slots, "rank"), counted(job.threads, "thread"),
                                            counted(static_cast<std::int64_t>(shape.cores.size()), "core"),
                                            count > 1 && !host.name.empty() ? " of " + host.name : ""));
        job.bound = false;
    }
}

void draw_map(const Surroundings& here, Job& job) {
    std::int64_t rank = 0;
    for (const HostSlots& host : job.hosts) {
        const HostShape& shape = shape_of(host, here);
        // Threads beyond all cores leave the ranks unbound, here as on the host itself.
        const std::int64_t threads =
            job.bound ? job.threads : most_threads * static_cast<std::int64_t>(shape.cores.size());
        for (const RankBinding& place : place_ranks(host.slots, threads, shape)) {
            job.map.push_back(fmt::format("rank {} on {}: {}", rank++, host.name, text_of(place, shape)));
            if (place.nodes.size() > 1 && host.slots >= 2)
                job.notes.push_back(fmt::format("rank {} lies across NUMA nodes: {} do not fit into one", rank - 1,
                                                counted(job.threads, "thread")));
        }
    }
}

} // namespace

std::string Job::host_of(std::int64_t rank) const {
    for (const HostSlots& host : hosts) {
        if (rank < host.slots) return host.name;
        rank -= host.slots;
    }
    return "";
}

Job plan_job(const std::vector<std::string>& program, const Wish& wish, const Surroundings& here,
             const std::string& id) {
    Job job;
    job.id = id;
    const bool slurm = wish.hosts.empty() && in_allocation(here);
    const std::int64_t nodes = slurm ? variable(here, "SLURM_JOB_NUM_NODES", most_ranks, 1) : 1;
    job.nodes = nodes;
    job.ranks = wish.ranks;
    if (job.ranks == 0 && !wish.hosts.empty()) job.ranks = slots_of(wish.hosts);
    if (job.ranks == 0) job.ranks = slurm ? variable(here, "SLURM_NTASKS", most_ranks, 1) : 1;
    if (!wish.hosts.empty())
        job.hosts = share_ranks(job.ranks, wish.hosts);
    else // Slurm's nodes are taken to be like this one, and to share the ranks evenly
        job.hosts = {{nodes == 1 ? here.host : "", (job.ranks + nodes - 1) / nodes}};
    settle_threads(wish, here, slurm, job);

    if (slurm && here.srun_has_pmix()) {
        start_with_srun(job);
    } else {
        if (slurm) job.notes.push_back("srun has no pmix, which Open MPI needs: starting with mpirun instead");
        start_with_mpirun(wish, here, wish.hosts.empty() && nodes == 1, job);
    }
    job.environment[job_variable] = id;
    job.environment["OMP_NUM_THREADS"] = std::to_string(job.threads);
    set_unless_set("CUDA_DEVICE_ORDER", "PCI_BUS_ID", here, job); // hwloc's, by which GPUs get their ranks
    if (!job.bound) {
        // Without these a rank or a thread that waits keeps the core from the one it waits for: 8 ms an all-reduce
        // against 0.01 ms, and 20 small steps of 3 ranks x 2 threads on 2 busy cores in 59 s against 1.5 s.
        job.environment["OMPI_MCA_mpi_yield_when_idle"] = "1";
        set_unless_set("OMP_WAIT_POLICY", "passive", here, job);
    }
    if (!wish.hosts.empty()) pass_on(here, job);
    const std::vector<std::string> words = words_of_rank(program, wish, job);
    job.command.insert(job.command.end(), words.begin(), words.end());
    if (job.hosts[0].name.empty()) job.hosts.clear();
    if (!job.slurm) draw_map(here, job);
    return job;
}

bool looks_like_a_secret(const std::string& name) {
    std::string upper;
    for (const char letter : name)
        upper += static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
    std::istringstream words(upper);
    for (std::string word; std::getline(words, word, '_');)
        for (const char* sign : {"KEY", "APIKEY", "SECRET", "SECRETS", "TOKEN", "PASSWORD", "PASSWD", "PASS",
                                 "PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "AUTH", "COOKIE"})
            if (word == sign) return true;
    return false;
}

std::string quoted(const std::string& word) {
    const char* const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%^";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
    std::string result = "'";
    for (const char character : word)
        result += character == '\'' ? std::string("'\\''") : std::string(1, character);
    return result + "'";
}

std::string quoted(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words)
        text += (text.empty() ? "" : " ") + quoted(word);
    return text;
}

std::string job_text(const Job& job, const Surroundings& here) {
    std::string text = "command: " + quoted(job.command) + "\nenvironment:";
    for (const auto& [name, value] : job.environment)
        text += fmt::format(" {}={}", name, quoted(value));
    text += '\n';
    if (!job.passed_on.empty()) {
        text += "passed on:";
        for (const std::string& name : job.passed_on)
            text += fmt::format(" {}={}", name, quoted(here.environment(name)));
        text += '\n';
    }
    if (job.map.empty())
        return text +
               fmt::format("ranks: {}, placed by {}\n", job.ranks, job.slurm ? "Slurm" : "mpirun on Slurm's nodes");
    if (!job.bound) text += fmt::format("ranks: {}, not bound to cores\n", job.ranks);
    for (const std::string& line : job.map)
        text += line + '\n';
    return text;
}

} // namespace tessera
