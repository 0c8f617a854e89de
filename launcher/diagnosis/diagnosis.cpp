// SPDX-License-Identifier: Apache-2.0
// The checks of `tessera doctor`, each from facts to findings.
#include "launcher/diagnosis/diagnosis.hpp"

#include "core/run/outliers.hpp"
#include "core/with_thousands.hpp"
#include "launcher/command_line.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <functional>
#include <set>

namespace tessera {
namespace {

// Slower by more than these factors than the median: what else goes on on a healthy machine stays below.
constexpr double slow_rank = 1.4, slow_pair = 1.8;
constexpr double apart = 1;                                    // seconds between clocks: make and NFS mind, we do not
constexpr std::int64_t shared_memory_of_a_rank = 16 << 20;     // that Open MPI 4.1 takes of /dev/shm
constexpr std::int64_t few_files = 1024, few_processes = 1024; // a rank has some files per neighbour, and threads

using Findings = std::vector<Finding>;

std::string who(const RankFacts& rank) { return fmt::format("rank {} on {}", rank.rank, rank.host); }

std::vector<const RankFacts*> ranks_of(const Survey& survey, const std::string& host) {
    std::vector<const RankFacts*> found;
    for (const RankFacts& rank : survey.ranks)
        if (rank.host == host) found.push_back(&rank);
    return found;
}

std::string numbers_of(const std::vector<const RankFacts*>& ranks) {
    std::vector<int> numbers;
    for (const RankFacts* rank : ranks)
        numbers.push_back(rank->rank);
    return fmt::format("{} {}", numbers.size() == 1 ? "rank" : "ranks", fmt::join(numbers, ", "));
}

// Ranks that are bound to fewer cores than there are of them; several on all cores of a host merely share them.
void check_cores(const Survey& survey, Findings& findings) {
    for (const std::string& host : survey.hosts()) {
        std::map<std::vector<int>, std::vector<const RankFacts*>> by_cpus;
        for (const RankFacts* rank : ranks_of(survey, host))
            by_cpus[rank->cpus].push_back(rank);
        for (const auto& [cpus, ranks] : by_cpus) {
            int threads = 0;
            for (const RankFacts* rank : ranks)
                threads += rank->threads;
            const auto count = static_cast<int>(cpus.size());
            if (threads <= count || cpus.empty()) continue;
            const bool bound = count < ranks.front()->host_cpus;
            findings.push_back(
                {bound,
                 {},
                 fmt::format("{} on {} with {} together {} {} ({})", numbers_of(ranks), host,
                             counted(threads, "thread"), bound ? "are bound to" : "share all", counted(count, "core"),
                             fmt::join(cpus, ",")),
                 bound ? "start with `tessera launch`, or mpirun --map-by slot:PE=THREADS --bind-to core, or srun "
                         "--cpus-per-task=THREADS"
                       : "start fewer ranks, or with fewer threads"});
        }
    }
}

void check_limits(const Survey& survey, Findings& findings) {
    for (const std::string& host : survey.hosts()) {
        const std::vector<const RankFacts*> ranks = ranks_of(survey, host);
        const RankFacts& first = *ranks.front();
        const std::int64_t wanted = shared_memory_of_a_rank * static_cast<std::int64_t>(ranks.size());
        if (first.shared_memory_free >= 0 && first.shared_memory_free < wanted)
            findings.push_back({true,
                                {host},
                                fmt::format("{}: /dev/shm has {} bytes free, MPI wants some {}", host,
                                            with_thousands(first.shared_memory_free), with_thousands(wanted)),
                                "remove what crashed jobs left there, or mount it larger (containers: --shm-size)"});
        if (first.open_files >= 0 && first.open_files < few_files)
            findings.push_back({true,
                                {host},
                                fmt::format("{}: a process may open {} files", host, first.open_files),
                                "ulimit -n 65536, in /etc/security/limits.conf or the batch system's settings"});
        if (first.processes >= 0 && first.processes < few_processes)
            findings.push_back({true,
                                {host},
                                fmt::format("{}: a user may have {} processes", host, first.processes),
                                "ulimit -u 16384"});
        if (first.infiniband && first.locked_memory >= 0)
            findings.push_back({true,
                                {host},
                                fmt::format("{}: InfiniBand, but only {} bytes may be locked", host,
                                            with_thousands(first.locked_memory)),
                                "ulimit -l unlimited, for the batch system's daemon, too"});
    }
}

// Another version than rank 0 has.
void check_versions(const Survey& survey, Findings& findings) {
    const RankFacts& first = survey.ranks.front();
    std::set<std::string> told;
    for (const RankFacts& rank : survey.ranks) {
        if (!told.insert(rank.host).second) continue;
        for (const auto& [name, version] : rank.versions) {
            const auto other = first.versions.find(name);
            if (other != first.versions.end() && other->second != version)
                findings.push_back(
                    {true,
                     {rank.host},
                     fmt::format("{}: {} {}, but {} has {}", rank.host, name, version, first.host, other->second),
                     "install the same version on all hosts"});
        }
        for (const auto& [what, mine, others] :
             {std::tuple{"kernel", first.kernel, rank.kernel}, std::tuple{"processor", first.processor, rank.processor},
              std::tuple{"vectors", first.instructions, rank.instructions}})
            if (mine != others)
                findings.push_back({false,
                                    {},
                                    fmt::format("{}: {} {}, but {} has {}", rank.host, what, others, first.host, mine),
                                    "results may differ in their last bits between such hosts, and speeds do"});
    }
}

void check_folder(const Survey& survey, Findings& findings) {
    std::map<std::string, std::vector<const RankFacts*>> blind; // by host
    for (const RankFacts& rank : survey.ranks)
        if (!rank.folder_problem.empty()) blind[rank.host].push_back(&rank);
    for (const auto& [host, ranks] : blind)
        findings.push_back({true,
                            {host},
                            fmt::format("{} on {}: {}", numbers_of(ranks), host, ranks.front()->folder_problem),
                            "put run.folder on a file system that all hosts share, mounted at the same path"});
    if (!survey.room || survey.room->free < 0) return;
    const Room& room = *survey.room;
    const std::int64_t wanted = room.bytes * room.checkpoints;
    if (wanted > room.free)
        findings.push_back(
            {true,
             {},
             fmt::format("{}: {} bytes free, {} of {} bytes each want {}", room.folder, with_thousands(room.free),
                         counted(room.checkpoints, "checkpoint"), with_thousands(room.bytes), with_thousands(wanted)),
             "make room, put run.folder elsewhere, or keep fewer (checkpoint.keep_latest_k)"});
}

void check_clocks(const Survey& survey, Findings& findings) {
    std::set<std::string> told;
    for (const RankFacts& rank : survey.ranks)
        if (std::abs(rank.clock_ahead) - rank.clock_error > apart && told.insert(rank.host).second)
            findings.push_back(
                {true,
                 {rank.host},
                 fmt::format("{}: its clock is {:.1f} s {} of {}'s", rank.host, std::abs(rank.clock_ahead),
                             rank.clock_ahead > 0 ? "ahead" : "behind", survey.ranks.front().host),
                 "let chrony or ntpd set it"});
}

void check_routes(const Survey& survey, Findings& findings) {
    if (survey.routes.empty()) return;
    std::vector<std::string> good, bad;
    std::map<std::string, int> missed;
    for (const Interface& route : survey.routes) {
        (route.missed.empty() ? good : bad).push_back(route.name);
        for (const std::string& host : route.missed)
            ++missed[host];
    }
    for (const auto& [host, times] : missed)
        if (times == static_cast<int>(survey.routes.size()))
            findings.push_back({true,
                                {host},
                                fmt::format("{} reaches {} on none of its interfaces", host, survey.ranks.front().host),
                                "look at cables, routes and firewalls (MPI wants all TCP ports between hosts)"});
    if (!bad.empty() && !good.empty())
        findings.push_back(
            {false,
             {},
             fmt::format("not all hosts reach {} by {}", survey.ranks.front().host, fmt::join(bad, ", ")),
             fmt::format("export OMPI_MCA_btl_tcp_if_include={0} OMPI_MCA_oob_tcp_if_include={0} "
                         "NCCL_SOCKET_IFNAME={0}",
                         fmt::join(good, ","))});
}

void check_rates(const Survey& survey, Findings& findings) {
    const auto check = [&](const char* what, const char* unit, double scale, double RankFacts::*rate) {
        std::vector<double> rates;
        for (const RankFacts& rank : survey.ranks)
            rates.push_back(rank.*rate);
        for (const std::size_t i : outliers(rates, Worse::low, slow_rank))
            findings.push_back(
                {true,
                 {survey.ranks[i].host},
                 fmt::format("{}: {} {:.3g} {}, the median of {} is {:.3g}", who(survey.ranks[i]), what,
                             rates[i] / scale, unit, counted(std::ssize(rates), "rank"), median(rates) / scale),
                 "look for other processes, heat, a power limit or missing memory modules there"});
    };
    check("products", "GFLOP/s", 1e9, &RankFacts::flops);
    check("memory", "GB/s", 1e9, &RankFacts::memory_bandwidth);
}

// A host whose best pair is worse than other hosts' best ones drags all its pairs along; other slow pairs are links.
void check_pairs_of_a_kind(const Survey& survey, bool between, Findings& findings) {
    const auto host = [&](int rank) { return survey.ranks[static_cast<std::size_t>(rank)].host; };
    std::map<std::string, double> best;
    std::vector<PairRate> pairs;
    std::vector<double> rates;
    for (const PairRate& pair : survey.pairs) {
        if ((host(pair.one) != host(pair.other)) != between) continue;
        pairs.push_back(pair);
        rates.push_back(pair.bytes_per_second);
        for (const int rank : {pair.one, pair.other})
            best[host(rank)] = std::max(best[host(rank)], pair.bytes_per_second);
    }
    std::vector<std::string> names;
    std::vector<double> of_hosts;
    for (const auto& [name, rate] : best) {
        names.push_back(name);
        of_hosts.push_back(rate);
    }
    std::set<std::string> slow;
    for (const std::size_t i : outliers(of_hosts, Worse::low, slow_pair)) {
        slow.insert(names[i]);
        findings.push_back(
            {true,
             {names[i]},
             fmt::format("{}: all-reduces {} at {:.3g} GB/s at best, the median of {} is {:.3g}", names[i],
                         between ? "with other hosts" : "inside it", of_hosts[i] / 1e9,
                         counted(std::ssize(of_hosts), "host"), median(of_hosts) / 1e9),
             between ? "look at its network card, its cable and the switch" : "look for other processes"});
    }
    for (const std::size_t i : outliers(rates, Worse::low, slow_pair)) {
        const PairRate& pair = pairs[i];
        if (slow.contains(host(pair.one)) || slow.contains(host(pair.other))) continue;
        findings.push_back(
            {false,
             {},
             fmt::format("ranks {} on {} and {} on {}: all-reduce {:.3g} GB/s, the median of "
                         "{} is {:.3g}",
                         pair.one, host(pair.one), pair.other, host(pair.other), rates[i] / 1e9,
                         counted(std::ssize(rates), "pair"), median(rates) / 1e9),
             between ? "look at the switches between them" : "look how their cores or GPUs are connected"});
    }
}

} // namespace

std::vector<Finding> judge(const Survey& survey) {
    Findings findings;
    if (survey.device_memory_fails)
        findings.push_back({false,
                            {},
                            fmt::format("MPI with a GPU's memory: {}", survey.device_memory),
                            "nothing: tensors of GPUs go by NCCL alone"});
    check_cores(survey, findings);
    check_limits(survey, findings);
    check_versions(survey, findings);
    check_folder(survey, findings);
    check_clocks(survey, findings);
    check_routes(survey, findings);
    check_rates(survey, findings);
    for (const bool between : {false, true})
        check_pairs_of_a_kind(survey, between, findings);
    std::stable_partition(findings.begin(), findings.end(), [](const Finding& one) { return one.wrong; });
    return findings;
}

std::string exclude_line(const std::vector<Finding>& findings, const Survey& survey) {
    std::set<std::string> bad;
    for (const Finding& finding : findings)
        if (finding.wrong) bad.insert(finding.of.begin(), finding.of.end());
    if (bad.empty() || bad.size() == survey.hosts().size()) return "";
    return fmt::format("--exclude={}", fmt::join(bad, ","));
}

} // namespace tessera
