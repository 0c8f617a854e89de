// SPDX-License-Identifier: Apache-2.0
// What the machine says, and what the hosts of a run say of themselves.
#include "launcher/diagnosis/surroundings.hpp"

#include "kernels/error.hpp"
#include "launcher/job/child.hpp"
#include "launcher/job/remote.hpp"

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::int64_t most_grace = 86'400, usual_grace = 120; // seconds
constexpr std::chrono::seconds answer_within{10};

std::string variable(const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? "" : value;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

} // namespace

std::vector<Option> options_of_ranks() {
    return {{"ranks,n", "N", "number of ranks (default: as many as the hosts take, Slurm's tasks, or 1)"},
            {"threads,t", "T", "threads of each rank (default: OMP_NUM_THREADS, Slurm's CPUs, or cores / ranks)"},
            {"hosts", "A:8,B:8", "the hosts, and the ranks that each takes (default: this one)"},
            {"hostfile", "FILE", "the same, a line each: `a slots=8` or `a:8`"},
            {"interface", "NAME", "network interface for all traffic between hosts"},
            {"remote-shell", "COMMAND", "how to reach a host (default: ssh)"},
            {"grace", "SECONDS", "time to save and stop in (default: 120)"},
            {"dry-run", "", "show command, environment and the place of each rank; start none"}};
}

Wish wish_of(const Arguments& arguments) {
    Wish wish;
    wish.ranks = arguments.integer("ranks", 1, most_ranks).value_or(0);
    wish.threads = arguments.integer("threads", 1, most_threads).value_or(0);
    const std::optional<std::string> hosts = arguments.text("hosts"), file = arguments.text("hostfile");
    if (hosts && file) throw ConfigError("--hosts and --hostfile say the same twice: say one of them");
    if (hosts) wish.hosts = parse_hosts(*hosts);
    if (file) wish.hosts = read_hostfile(*file);
    for (const char* option : {"interface", "remote-shell"})
        if (wish.hosts.empty() && arguments.has(option))
            throw ConfigError(fmt::format("--{} is of several hosts: say --hosts or --hostfile, too", option));
    wish.interface = arguments.text("interface").value_or("");
    wish.remote_shell = arguments.text("remote-shell").value_or(wish.remote_shell);
    if (words_of(wish.remote_shell).empty()) throw ConfigError("--remote-shell: expected a command");
    return wish;
}

std::chrono::seconds grace_of(const Arguments& arguments) {
    return std::chrono::seconds(arguments.integer("grace", 0, most_grace).value_or(usual_grace));
}

std::string this_program() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

Surroundings this_host() {
    Surroundings here;
    std::array<char, 256> name{};
    ::gethostname(name.data(), name.size() - 1);
    here.host = name.data();
    here.shape = shape_of_this_host(variable("CUDA_VISIBLE_DEVICES"));
    here.environment = variable;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string text = *entry;
        here.variables.push_back(text.substr(0, text.find('=')));
    }
    here.root = ::geteuid() == 0;
    here.srun_has_pmix = [] {
        return output_of({"srun", "--mpi=list"}, answer_within).find("pmix") != std::string::npos;
    };
    return here;
}

std::vector<HostSlots> ask_shapes(const std::string& program, const Wish& wish, Surroundings& here,
                                  std::vector<std::string>& silent) {
    std::vector<std::string> names;
    for (const HostSlots& host : wish.hosts)
        names.push_back(host.name);
    const std::vector<Answer> answers =
        ask_hosts(names, wish.remote_shell, {program, "host", "--short"}, answer_within);
    std::vector<HostSlots> there;
    for (std::size_t i = 0; i < names.size(); ++i) {
        const std::string& text = answers[i].text; // a login may say something before
        const std::size_t begin = text.find("cores ");
        if (answers[i].came && begin != std::string::npos) {
            here.others[names[i]] = parse_shape(first_line(text.substr(begin)));
            there.push_back(wish.hosts[i]);
        } else {
            silent.push_back(fmt::format("{} does not answer: {}", names[i],
                                         text.empty() ? "the remote shell ended without a word" : first_line(text)));
        }
    }
    return there;
}

} // namespace tessera
