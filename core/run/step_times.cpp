// SPDX-License-Identifier: Apache-2.0
// Accounts of time, and who is slow by them.
#include "core/run/step_times.hpp"

#include "core/run/outliers.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <functional>
#include <map>
#include <numeric>

namespace tessera {
namespace {

constexpr double slow = 1.25; // times the median of its peers: below, nobody would look for the reason

struct Component {
    const char* what;
    double RankTimes::*seconds;
};
constexpr std::array components{Component{"computing", &RankTimes::computing}, Component{"in input", &RankTimes::input},
                                Component{"saving", &RankTimes::saving},
                                Component{"in evaluation", &RankTimes::evaluation}};

double milliseconds(double seconds, std::int64_t steps) {
    return seconds * 1e3 / static_cast<double>(std::max<std::int64_t>(steps, 1));
}

// Why the rank is slow: the component in which it is furthest above the median of its peers.
std::string reason(const StepTimes& times, const std::vector<std::size_t>& peers, std::size_t rank) {
    const RankTimes& mine = times.ranks[rank];
    const Component* worst = nullptr;
    double most = 0, usual = 0;
    for (const Component& component : components) {
        std::vector<double> others;
        for (const std::size_t peer : peers)
            if (peer != rank) others.push_back(times.ranks[peer].*component.seconds);
        const double middle = median(others), excess = mine.*component.seconds - middle;
        if (worst != nullptr && excess <= most) continue;
        worst = &component;
        most = excess;
        usual = middle;
    }
    return fmt::format("{:.1f} of {:.1f} ms of a step {}, the others like it {:.1f} ms",
                       milliseconds(mine.*worst->seconds, times.steps),
                       milliseconds(mine.own() + mine.communicated(), times.steps), worst->what,
                       milliseconds(usual, times.steps));
}

} // namespace

double RankTimes::communicated() const { return std::accumulate(communication.begin(), communication.end(), 0.0); }

std::vector<std::string> slow_ranks(const StepTimes& times, const std::vector<RankOfPeers>& places) {
    std::map<std::string, std::vector<std::size_t>> by_peers;
    for (std::size_t rank = 0; rank < times.ranks.size(); ++rank)
        by_peers[places[rank].peers].push_back(rank);
    std::vector<std::size_t> found;
    std::map<std::size_t, std::string> text;
    for (const auto& [name, peers] : by_peers) {
        std::vector<double> own;
        for (const std::size_t rank : peers)
            own.push_back(times.ranks[rank].own());
        for (const std::size_t i : outliers(own, Worse::high, slow)) {
            found.push_back(peers[i]);
            text[peers[i]] =
                fmt::format("rank {} on {}: {}", peers[i], places[peers[i]].host, reason(times, peers, peers[i]));
        }
    }
    std::ranges::stable_sort(found, std::greater(), [&](std::size_t rank) { return times.ranks[rank].own(); });
    std::vector<std::string> sentences;
    for (const std::size_t rank : found)
        sentences.push_back(text[rank]);
    return sentences;
}

std::string mean_times(const StepTimes& times) {
    const auto mean = [&](const auto& of) {
        double sum = 0;
        for (const RankTimes& rank : times.ranks)
            sum += std::invoke(of, rank);
        return milliseconds(sum / static_cast<double>(times.ranks.size()), times.steps);
    };
    std::string text =
        fmt::format("a step, mean of {} {}:", times.ranks.size(), times.ranks.size() == 1 ? "rank" : "ranks");
    const double waited = mean([](const RankTimes& rank) { return rank.waited; });
    const double step = mean([](const RankTimes& rank) { return rank.computing + rank.input + rank.communicated(); });
    text += fmt::format(" computing {:.1f} ms, waiting for data {:.2f} ms ({:.2g} %)", mean(&RankTimes::computing),
                        waited, step > 0 ? 100 * waited / step : 0);
    const auto tell = [&](const char* what, double ms) {
        if (ms > 0) text += fmt::format(", {} {:.1f} ms", what, ms);
    };
    tell("copying them", std::max(mean(&RankTimes::input) - waited, 0.0));
    tell("saving", mean(&RankTimes::saving));
    tell("in evaluation", mean(&RankTimes::evaluation));
    if (times.axes.empty()) return text;
    text += fmt::format(", communication {:.1f} ms", mean([](const RankTimes& rank) { return rank.communicated(); }));
    std::string axes;
    for (std::size_t i = 0; i < times.axes.size(); ++i)
        axes += fmt::format("{}{} {:.1f}", i == 0 ? "" : ", ", times.axes[i],
                            mean([&](const RankTimes& rank) { return rank.communication[i]; }));
    return text + fmt::format(" ({})", axes);
}

TimeAccount::TimeAccount(FlightRecorder& recorder, int axes)
    : recorder_(recorder), axes_(static_cast<std::size_t>(axes)) {
    recorder_.add(*this);
}

TimeAccount::~TimeAccount() { recorder_.remove(*this); }

void TimeAccount::close(std::int64_t now) {
    kinds_[static_cast<std::size_t>(kind_)] += now - since_ - communicated_;
    since_ = now;
    communicated_ = 0;
}

void TimeAccount::at(Activity activity, Doing doing, std::string_view, std::int64_t now) {
    const Kind kind = activity == Activity::saving       ? Kind::saving
                      : activity == Activity::evaluating ? Kind::evaluation
                      : doing == Doing::reading_data     ? Kind::input
                                                         : Kind::computing;
    if (kind == kind_) return;
    close(now);
    kind_ = kind;
}

void TimeAccount::called(int axis, CallKind, std::int64_t, std::int64_t begun, std::int64_t ended) {
    if (axis < 0 || axis >= static_cast<int>(axes_.size())) return;
    axes_[static_cast<std::size_t>(axis)] += ended - begun;
    communicated_ += ended - begun;
}

RankTimes TimeAccount::take() {
    close(monotonic_now());
    const auto seconds = [](std::int64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; };
    const auto of = [&](Kind kind) { return seconds(std::exchange(kinds_[static_cast<std::size_t>(kind)], 0)); };
    RankTimes times{of(Kind::computing), of(Kind::input), of(Kind::saving), of(Kind::evaluation)};
    for (std::int64_t& axis : axes_)
        times.communication.push_back(seconds(std::exchange(axis, 0)));
    return times;
}

} // namespace tessera
