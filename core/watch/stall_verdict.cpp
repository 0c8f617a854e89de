// SPDX-License-Identifier: Apache-2.0
// The page about a job that has stopped, and how it is found who stopped it.
#include "core/watch/stall_verdict.hpp"

#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/communication/groups.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <set>

namespace tessera {
namespace {

using Reports = std::vector<RankReport>;

constexpr std::size_t calls_on_page = 12, ranks_on_line = 8;

std::string seconds(double value) { return fmt::format("{:.1f} s", value); }

std::string place_text(const RankReport& of) {
    return fmt::format("rank {} on {} (pid {})", of.place.rank, of.place.host, of.place.pid);
}

std::string axis_text(const Mesh& mesh, int number) {
    if (number <= 0 || number > mesh.axis_count()) return "all ranks";
    return recorded_axis(mesh, number - 1).name;
}

// "all_reduce of 'layers.1.norm' (4,096 bytes, call 41 of the axis 'data')"
std::string call_text(const CallRecord& call, const Mesh& mesh) {
    std::string text{name_of(call.kind)};
    if (call.kind >= CallKind::send)
        text = fmt::format("{} {} number {} of {}", call.kind == CallKind::send ? "a message to" : "a message from",
                           "its rank", call.peer, axis_text(mesh, call.axis));
    if (!call.name.empty()) text += fmt::format(" of '{}'", call.name);
    const std::string bytes = fmt::format("{} bytes of {}", with_thousands(call.bytes), name_of(call.dtype));
    if (call.kind >= CallKind::send) return fmt::format("{} ({})", text, bytes);
    if (call.bytes == 0) return fmt::format("{} (call {} of {})", text, call.number, axis_text(mesh, call.axis));
    return fmt::format("{} ({}, call {} of {})", text, bytes, call.number, axis_text(mesh, call.axis));
}

std::string step_text(const RankReport& of) {
    if (of.state.step < 0) return "";
    std::string text = fmt::format(", step {}", of.state.step + 1);
    if (of.state.micro_batch >= 0) text += fmt::format(", its micro-batch {}", of.state.micro_batch + 1);
    return text;
}

// What the rank is at by its own page, without since when.
std::string work_text(const RankReport& of, const Mesh& mesh) {
    const FlightState& state = of.state;
    const std::string within =
        state.activity == Activity::training ? std::string() : fmt::format(" while {}", name_of(state.activity));
    if (of.waits()) return fmt::format("in {}{}", call_text(of.calls.front().call, mesh), within);
    switch (state.doing) {
    case Doing::reading_data:
        return "reading data" + within;
    case Doing::computing:
        return fmt::format("computing '{}'{}", state.work, within);
    case Doing::waiting_for_gpu:
        return "waiting for its GPU" + within;
    case Doing::nothing_told:
        break;
    }
    return state.activity == Activity::training ? (state.in_step ? "within a step" : "between two steps")
                                                : std::string(name_of(state.activity));
}

double since(const RankReport& of) { return of.waits() ? of.calls.front().age : of.doing_age; }

std::string contact_text(const RankReport& of) {
    switch (of.contact) {
    case Contact::gone:
        return "its process is gone";
    case Contact::unreachable:
        return "its host does not answer";
    case Contact::left:
        return "has left the run";
    case Contact::answers:
    case Contact::silent:
        break;
    }
    if (of.process == 'T' || of.process == 't') return "its process is stopped (by a signal or a debugger)";
    if (of.process == 'D' && of.contact == Contact::silent) return "its process is in an uninterruptible disk wait";
    if (of.process == 'Z' || of.process == 'X') return "its process has died";
    return of.contact == Contact::silent ? "does not answer" : "";
}

// Whole: "its process is stopped since 12.0 s; it was last seen computing 'x', step 3".
std::string state_text(const RankReport& of, const Mesh& mesh) {
    const std::string contact = contact_text(of);
    const std::string work = work_text(of, mesh) + step_text(of);
    if (contact.empty()) return fmt::format("{}, since {}", work, seconds(since(of)));
    return fmt::format("{}, unheard of for {}; last {}", contact, seconds(of.silence), work);
}

std::string ranks_text(const std::vector<int>& ranks) {
    std::string text = ranks.size() == 1 ? "rank " : "ranks ";
    for (std::size_t i = 0; i < std::min(ranks.size(), ranks_on_line); ++i)
        text += fmt::format("{}{}", i == 0 ? "" : ", ", ranks[i]);
    if (ranks.size() > ranks_on_line) text += fmt::format(" and {} more", ranks.size() - ranks_on_line);
    return text;
}

bool is_dead(const RankReport& of) { return of.contact == Contact::gone || of.process == 'Z' || of.process == 'X'; }
bool is_stopped(const RankReport& of) { return of.process == 'T' || of.process == 't'; }
bool is_victim(const RankReport& of) { return of.waits() || of.state.doing == Doing::waiting_for_gpu; }

// The collective that most of the victims wait in, and those.
struct Waiting {
    CallRecord call;
    std::vector<int> group; // ranks that take part
    std::vector<int> ranks; // of them, who waits in it
    double longest = 0;
};

std::vector<int> group_of(int rank, int axis, const Mesh& mesh) {
    if (axis > 0 && axis <= mesh.axis_count()) return mesh.group(rank, axis - 1);
    std::vector<int> all;
    for (int each = 0; each < mesh.size(); ++each)
        all.push_back(each);
    return all;
}

bool is_same(const CallRecord& a, const CallRecord& b) {
    return a.axis == b.axis && a.number == b.number && a.kind == b.kind && a.bytes == b.bytes && a.name == b.name;
}

// Most waited in first.
std::vector<Waiting> collectives_waited_in(const Reports& reports, const Mesh& mesh) {
    std::vector<Waiting> found;
    for (const RankReport& report : reports) {
        if (!report.waits() || report.calls.front().call.kind >= CallKind::send || is_dead(report)) continue;
        const ReportedCall& current = report.calls.front();
        const std::vector<int> group = group_of(report.place.rank, current.call.axis, mesh);
        auto one = std::ranges::find_if(
            found, [&](const Waiting& other) { return is_same(other.call, current.call) && other.group == group; });
        if (one == found.end()) one = found.insert(found.end(), {current.call, group, {}, 0});
        one->ranks.push_back(report.place.rank);
        one->longest = std::max(one->longest, current.age);
    }
    std::ranges::stable_sort(found, [](const Waiting& a, const Waiting& b) { return a.ranks.size() > b.ranks.size(); });
    return found;
}

// Of the axis, as far as the report tells; -1: unknown.
std::int64_t entered(const RankReport& of, int axis) {
    for (const ReportedCall& one : of.calls)
        if (one.call.axis == axis) return one.call.number;
    return -1;
}

struct Blame {
    const RankReport* who;
    std::string kind, sentence;
};

std::string others_wait(const RankReport& who, const Reports& reports, const Mesh& mesh) {
    for (const Waiting& one : collectives_waited_in(reports, mesh)) {
        if (std::ranges::find(one.group, who.place.rank) == one.group.end()) continue;
        std::vector<int> ranks = one.ranks;
        std::erase(ranks, who.place.rank);
        if (ranks.empty()) continue;
        return fmt::format("; {} {} waited for {} in {}", ranks_text(ranks), ranks.size() == 1 ? "has" : "have",
                           seconds(one.longest), call_text(one.call, mesh));
    }
    return "";
}

std::optional<Blame> not_running(const Reports& reports, const Mesh& mesh) {
    const auto first = [&](const auto& holds) -> const RankReport* {
        const auto found = std::ranges::find_if(reports, holds);
        return found == reports.end() ? nullptr : &*found;
    };
    const auto blame = [&](const RankReport& who, const char* kind) {
        return Blame{&who, kind,
                     fmt::format("{}: {}{}", place_text(who), state_text(who, mesh), others_wait(who, reports, mesh))};
    };
    if (const RankReport* who = first(is_dead)) return blame(*who, "lost");
    if (const RankReport* who = first([](const auto& r) { return r.contact == Contact::unreachable; })) {
        std::vector<int> ranks;
        for (const RankReport& report : reports)
            if (report.contact == Contact::unreachable && report.place.host == who->place.host)
                ranks.push_back(report.place.rank);
        Blame found = blame(*who, "lost");
        found.sentence =
            fmt::format("host {} with {} does not answer: {}", who->place.host, ranks_text(ranks), found.sentence);
        return found;
    }
    if (const RankReport* who = first(is_stopped)) return blame(*who, "stalled");
    if (const RankReport* who = first([](const auto& r) { return r.contact == Contact::silent; }))
        return blame(*who, "stalled");
    if (const RankReport* who = first([](const auto& r) { return r.contact == Contact::left; }))
        return blame(*who, "stalled");
    return std::nullopt;
}

// In no call, while others are.
std::optional<Blame> busy_elsewhere(const Reports& reports, const Mesh& mesh) {
    const std::vector<Waiting> waited_in = collectives_waited_in(reports, mesh);
    const RankReport* who = nullptr;
    const auto comes_before = [&](const RankReport& a, const RankReport& b) {
        if (!waited_in.empty()) {
            const int axis = waited_in.front().call.axis;
            if (entered(a, axis) != entered(b, axis)) return entered(a, axis) < entered(b, axis);
        }
        return a.doing_age > b.doing_age;
    };
    for (const RankReport& report : reports)
        if (!is_victim(report) && (who == nullptr || comes_before(report, *who))) who = &report;
    if (who == nullptr) return std::nullopt;
    return Blame{who, "stalled",
                 fmt::format("{} is {}{}", place_text(*who), state_text(*who, mesh), others_wait(*who, reports, mesh))};
}

const RankReport& report_of_rank(const Reports& reports, int rank) {
    const auto found = std::ranges::find_if(reports, [&](const RankReport& one) { return one.place.rank == rank; });
    return found == reports.end() ? reports.front() : *found;
}

// All are in calls, but not in the same.
std::optional<Blame> in_other_calls(const Reports& reports, const Mesh& mesh) {
    const std::vector<Waiting> waited_in = collectives_waited_in(reports, mesh);
    for (const Waiting& most : waited_in)
        for (auto other = waited_in.rbegin(); other != waited_in.rend(); ++other) {
            if (&*other == &most) continue;
            for (const int rank : other->ranks) {
                if (std::ranges::find(most.group, rank) == most.group.end()) continue;
                // Equal in number: blame those who have entered fewer.
                const bool swap = most.ranks.size() == other->ranks.size() && most.call.axis == other->call.axis &&
                                  most.call.number < other->call.number;
                const Waiting& right = swap ? *other : most;
                const Waiting& wrong = swap ? most : *other;
                const RankReport& who = report_of_rank(reports, swap ? most.ranks.front() : rank);
                return Blame{
                    &who, "stalled",
                    fmt::format("the ranks are in different collectives: {} has waited for {} in {}, but {} {} "
                                "in {}",
                                place_text(who), seconds(wrong.longest), call_text(wrong.call, mesh),
                                ranks_text(right.ranks), right.ranks.size() == 1 ? "is" : "are",
                                call_text(right.call, mesh))};
            }
        }
    return std::nullopt;
}

// From a rank to whom it waits for a message of, and on.
std::optional<Blame> end_of_messages(const Reports& reports, const Mesh& mesh) {
    const auto start = std::ranges::find_if(
        reports, [](const RankReport& one) { return one.waits() && one.calls.front().call.kind >= CallKind::send; });
    if (start == reports.end()) return std::nullopt;
    const RankReport* who = &*start;
    std::set<int> seen;
    while (seen.insert(who->place.rank).second && who->waits() && who->calls.front().call.kind >= CallKind::send) {
        const CallRecord& call = who->calls.front().call;
        const std::vector<int> group = group_of(who->place.rank, call.axis, mesh);
        if (call.peer < 0 || static_cast<std::size_t>(call.peer) >= group.size()) break;
        who = &report_of_rank(reports, group[static_cast<std::size_t>(call.peer)]);
    }
    return Blame{who, "stalled",
                 fmt::format("{} is awaited in a message: it is {}", place_text(*who), state_text(*who, mesh))};
}

// Ranks that are at the same, on one line.
std::string ranks_page(const Reports& reports, const Mesh& mesh) {
    struct Line {
        std::vector<int> ranks;
        std::set<std::string> hosts;
        double least, most;
    };
    std::map<std::string, Line> lines;
    for (const RankReport& report : reports) {
        const std::string contact = contact_text(report);
        const std::string text =
            (contact.empty() ? "" : contact + "; last ") + work_text(report, mesh) + step_text(report);
        const double age = contact.empty() ? since(report) : report.silence;
        auto [line, is_new] = lines.try_emplace(text, Line{{}, {}, age, age});
        line->second.ranks.push_back(report.place.rank);
        line->second.hosts.insert(report.place.host);
        line->second.least = std::min(line->second.least, age);
        line->second.most = std::max(line->second.most, age);
    }
    std::string page;
    for (const auto& [text, line] : lines) {
        const std::string hosts =
            line.hosts.size() == 1 ? *line.hosts.begin() : fmt::format("{} hosts", line.hosts.size());
        page +=
            fmt::format("  {} on {}: {}, for {}\n", ranks_text(line.ranks), hosts, text,
                        line.least + 1 < line.most ? fmt::format("{} to {}", seconds(line.least), seconds(line.most))
                                                   : seconds(line.most));
    }
    return page;
}

std::string calls_page(const RankReport& of, const Mesh& mesh) {
    if (of.calls.empty()) return "";
    std::string page = fmt::format("\nThe last calls of rank {}, the newest first\n", of.place.rank);
    for (std::size_t i = 0; i < std::min(of.calls.size(), calls_on_page); ++i) {
        const ReportedCall& one = of.calls[i];
        const char* state = one.call.state == CallState::begun   ? "not ended"
                            : one.call.state == CallState::ended ? "ended"
                                                                 : "in the GPU's queue";
        page += fmt::format("  {} ago: {}, {}\n", seconds(one.age), call_text(one.call, mesh), state);
    }
    return page;
}

std::string heading(const Reports& reports) {
    const RankReport* latest = nullptr;
    for (const RankReport& report : reports)
        if (report.overdue && (latest == nullptr || report.step_age > latest->step_age)) latest = &report;
    if (latest == nullptr) return "";
    const std::string median =
        latest->median > 0 ? fmt::format("; the median of its last steps is {:.3f} s", latest->median) : "";
    if (latest->state.activity == Activity::training)
        return fmt::format("Step {} has been under way for {} on rank {}: its deadline is {}{}.\n",
                           latest->state.step + 1, seconds(latest->step_age), latest->place.rank,
                           seconds(latest->deadline), median);
    return fmt::format("Rank {} has been {} for {}: its deadline is {}.\n", latest->place.rank,
                       name_of(latest->state.activity), seconds(latest->activity_age), seconds(latest->deadline));
}

} // namespace

Verdict compose_verdict(std::vector<RankReport> reports, const Mesh& mesh) {
    if (reports.empty()) throw InternalError("a verdict without a report");
    std::ranges::sort(reports, {}, [](const RankReport& one) { return one.place.rank; });
    std::optional<Blame> blame = not_running(reports, mesh);
    if (!blame) blame = busy_elsewhere(reports, mesh);
    if (!blame) blame = in_other_calls(reports, mesh);
    if (!blame) blame = end_of_messages(reports, mesh);
    if (!blame) {
        const RankReport& who = reports.front();
        blame = Blame{&who, "stalled",
                      fmt::format("all ranks have entered the same call, which does not end: a link between them or "
                                  "what carries it; {} is {}",
                                  place_text(who), state_text(who, mesh))};
    }
    const RankReport& who = *blame->who;
    std::int64_t step = -1;
    for (const RankReport& report : reports)
        step = std::max(step, report.state.step + 1);
    Verdict verdict{blame->kind, who.place, step > 0 ? step : -1, blame->sentence, {}};
    verdict.page = fmt::format("{}: {}\n\n{}{}{}", verdict.kind == "lost" ? "A rank is lost" : "The run has stalled",
                               verdict.sentence, heading(reports), ranks_page(reports, mesh), calls_page(who, mesh));
    const auto other = std::ranges::find_if(
        reports, [&](const RankReport& one) { return one.place.rank != who.place.rank && one.waits(); });
    if (other != reports.end()) verdict.page += calls_page(*other, mesh);
    return verdict;
}

} // namespace tessera
