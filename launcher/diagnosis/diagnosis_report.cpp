// SPDX-License-Identifier: Apache-2.0
// The page that `tessera doctor` prints, and its JSON.
#include "core/json.hpp"
#include "core/run/outliers.hpp"
#include "core/with_thousands.hpp"
#include "launcher/command_line.hpp"
#include "launcher/diagnosis/diagnosis.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

constexpr std::size_t most_rows = 64; // of a table: of more ranks the slowest are shown

std::string limit_text(std::int64_t limit) { return limit < 0 ? "unlimited" : with_thousands(limit); }

std::string versions_text(const RankFacts& first) {
    std::string text;
    for (const auto& [name, version] : first.versions)
        text += fmt::format("  {:<14} {}\n", name, version);
    return text;
}

std::string hosts_text(const Survey& survey) {
    std::string text;
    for (const std::string& host : survey.hosts()) {
        const auto first = std::ranges::find(survey.ranks, host, &RankFacts::host);
        text +=
            fmt::format("{}: {}, {} ({}), {} and {} bytes of memory; /dev/shm {} bytes free; limits: {} locked bytes, "
                        "{} files, {} processes\n",
                        host, first->kernel, first->processor, first->instructions, counted(first->host_cpus, "core"),
                        limit_text(first->memory), limit_text(first->shared_memory_free),
                        limit_text(first->locked_memory), limit_text(first->open_files), limit_text(first->processes));
    }
    return text;
}

std::string ranks_text(const Survey& survey) {
    std::vector<const RankFacts*> shown;
    for (const RankFacts& rank : survey.ranks)
        shown.push_back(&rank);
    std::string text;
    if (shown.size() > most_rows) {
        std::ranges::stable_sort(shown, {}, &RankFacts::flops);
        shown.resize(most_rows);
        text = fmt::format("the slowest {} of {}:\n", most_rows, counted(std::ssize(survey.ranks), "rank"));
    }
    text += fmt::format("{:>6}  {:<16} {:<24} {:>16} {:>12} {:>16}\n", "rank", "host", "on", "products GFLOP/s",
                        "memory GB/s", "clock ahead us");
    for (const RankFacts* rank : shown)
        text += fmt::format("{:>6}  {:<16} {:<24} {:>16.2f} {:>12.2f} {:>16.1f}\n", rank->rank, rank->host,
                            rank->device, rank->flops / 1e9, rank->memory_bandwidth / 1e9, rank->clock_ahead * 1e6);
    return text;
}

std::string pairs_text(const Survey& survey) {
    if (survey.pairs.empty()) return "";
    std::vector<double> rates;
    for (const PairRate& pair : survey.pairs)
        rates.push_back(pair.bytes_per_second);
    const auto host = [&](int rank) { return survey.ranks[static_cast<std::size_t>(rank)].host; };
    const PairRate& slow = *std::ranges::min_element(survey.pairs, {}, &PairRate::bytes_per_second);
    return fmt::format(
        "all-reduce of {}: median {:.2f} GB/s; the slowest, ranks {} on {} and {} on {}: {:.2f} GB/s, {:.1f} "
        "us for a few bytes\n",
        counted(std::ssize(rates), "pair"), median(rates) / 1e9, slow.one, host(slow.one), slow.other, host(slow.other),
        slow.bytes_per_second / 1e9, slow.seconds * 1e6);
}

std::string rest_text(const Survey& survey) {
    std::string text;
    for (const Interface& route : survey.routes)
        text += fmt::format("interface {} ({}) of {}: reached from {}{}\n", route.name, route.address,
                            survey.ranks.front().host,
                            route.reached.empty() ? "no other host" : fmt::format("{}", fmt::join(route.reached, ", ")),
                            route.missed.empty() ? "" : fmt::format(", not from {}", fmt::join(route.missed, ", ")));
    text += fmt::format("folder {}: {}\n", survey.folder,
                        std::ranges::all_of(survey.ranks, [](const RankFacts& r) { return r.folder_problem.empty(); })
                            ? "all ranks read what rank 0 wrote"
                            : "not seen by all");
    if (survey.room)
        text +=
            fmt::format("checkpoints in {}: {} of {} bytes, {} bytes free\n", survey.room->folder,
                        survey.room->checkpoints, with_thousands(survey.room->bytes), limit_text(survey.room->free));
    return text + fmt::format("MPI with a GPU's memory: {}\n", survey.device_memory);
}

std::string list_json(const std::vector<std::string>& texts) {
    std::vector<std::string> quoted;
    for (const std::string& text : texts)
        quoted.push_back(json_string(text));
    return fmt::format("[{}]", fmt::join(quoted, ", "));
}

template <class Range, class Text> std::string lines_json(const Range& range, const Text& text) {
    std::vector<std::string> lines;
    for (const auto& one : range)
        lines.push_back("    " + text(one));
    return lines.empty() ? "[]" : fmt::format("[\n{}\n  ]", fmt::join(lines, ",\n"));
}

} // namespace

std::string report(const Survey& survey, const std::vector<Finding>& findings) {
    std::string text = fmt::format("{} on {}\n{}{}{}{}{}", counted(std::ssize(survey.ranks), "rank"),
                                   counted(std::ssize(survey.hosts()), "host"), versions_text(survey.ranks.front()),
                                   hosts_text(survey), ranks_text(survey), pairs_text(survey), rest_text(survey));
    for (const Finding& finding : findings)
        text += fmt::format("{}: {}: {}\n", finding.wrong ? "wrong" : "note", finding.what, finding.remedy);
    const auto wrong = std::ranges::count(findings, true, &Finding::wrong);
    const std::string exclude = exclude_line(findings, survey);
    if (!exclude.empty()) text += fmt::format("to leave out the hosts that are named: {}\n", exclude);
    return text + (wrong == 0
                       ? "nothing is wrong\n"
                       : fmt::format("{} wrong\n", wrong == 1 ? "1 thing is" : fmt::format("{} things are", wrong)));
}

std::string report_json(const Survey& survey, const std::vector<Finding>& findings) {
    const auto pair_text = [](const PairRate& pair) {
        return fmt::format(R"({{"ranks": [{}, {}], "bytes_per_second": {:.6g}, "seconds": {:.6g}}})", pair.one,
                           pair.other, pair.bytes_per_second, pair.seconds);
    };
    const auto route_text = [](const Interface& route) {
        return fmt::format(R"({{"interface": {}, "address": {}, "reached": {}, "missed": {}}})",
                           json_string(route.name), json_string(route.address), list_json(route.reached),
                           list_json(route.missed));
    };
    const auto finding_text = [](const Finding& finding) {
        return fmt::format(R"({{"wrong": {}, "hosts": {}, "what": {}, "remedy": {}}})", finding.wrong,
                           list_json(finding.of), json_string(finding.what), json_string(finding.remedy));
    };
    const auto rank_text = [](const RankFacts& rank) { return json_of(rank); };
    std::string room = "null";
    if (survey.room)
        room = fmt::format(R"({{"folder": {}, "checkpoints": {}, "bytes": {}, "free": {}}})",
                           json_string(survey.room->folder), survey.room->checkpoints, survey.room->bytes,
                           survey.room->free);
    return fmt::format(
        "{{\n  \"ranks\": {},\n  \"pairs\": {},\n  \"routes\": {},\n  \"folder\": {},\n  \"room\": {},\n  "
        "\"device_memory\": {},\n  \"findings\": {},\n  \"exclude\": {},\n  \"ok\": {}\n}}\n",
        lines_json(survey.ranks, rank_text), lines_json(survey.pairs, pair_text), lines_json(survey.routes, route_text),
        json_string(survey.folder), room, json_string(survey.device_memory), lines_json(findings, finding_text),
        json_string(exclude_line(findings, survey)), std::ranges::count(findings, true, &Finding::wrong) == 0);
}

} // namespace tessera
