// SPDX-License-Identifier: Apache-2.0
// Each rank sends rank 0 what it holds and what mark that bears; rank 0 compares, and all hear what it found.
#include "core/run/replica_audit.hpp"

#include "core/run/host_copy.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "kernels/fingerprint.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/ranges.h>
#include <functional>
#include <map>
#include <sstream>

namespace tessera {
namespace {

// Equal for ranks that hold the same elements of a tensor in the same order.
std::uint64_t part_of(const PlannedValue& planned) {
    if (!planned.box.held || planned.run.size() == 0) return 0;
    std::vector<std::int64_t> numbers{planned.run.begin, planned.run.end};
    for (const Range& range : planned.box.ranges) {
        numbers.push_back(range.begin);
        numbers.push_back(range.end);
    }
    const auto* bytes = reinterpret_cast<const char*>(numbers.data());
    return std::hash<std::string_view>()({bytes, numbers.size() * sizeof(std::int64_t)}) | 1;
}

struct Mark {
    std::uint64_t part, fingerprint;
};

std::string ranks_text(const std::vector<int>& ranks) {
    constexpr std::size_t most = 8;
    const std::vector<int> first(ranks.begin(),
                                 ranks.begin() + static_cast<std::ptrdiff_t>(std::min(most, ranks.size())));
    return fmt::format("rank{} {}{}", ranks.size() == 1 ? "" : "s", fmt::join(first, ", "),
                       ranks.size() > most ? fmt::format(" and {} more", ranks.size() - most) : "");
}

} // namespace

ReplicaAudit::ReplicaAudit(const Ground& ground, const Experiment& experiment, const Executor& executor, Log& log)
    : ground_(ground), executor_(executor), log_(log), interval_(ground.config.get(audit_interval)),
      repairs_(ground.config.get(audit_policy) == "repair"), ids_(persistent_values(experiment.train.model.graph)) {
    for (const ValueId id : ids_) {
        names_.push_back(experiment.train.model.graph.value(id).name);
        parts_.push_back(part_of(experiment.train.plan.value(id)));
    }
    if (interval_ > 0 && ground.groups.all().size() > 1)
        memory_ = std::visit([&](const auto& s) { return allocate(s, static_cast<std::int64_t>(ids_.size()) * 8); },
                             ground.stream);
}

void ReplicaAudit::check_keys(const Config& config) {
    if (config.get(audit_interval) < 0) config.refuse(audit_interval.name, "must be at least 0");
    const std::string policy = config.get(audit_policy);
    if (policy != "stop" && policy != "repair")
        config.refuse(audit_policy.name, no_such_name("policy of the audit", policy, {"repair", "stop"}));
}

bool ReplicaAudit::due(std::int64_t steps_done) const { return memory_.bytes() > 0 && steps_done % interval_ == 0; }

// Of this rank, a Mark for each tensor.
std::string ReplicaAudit::marks() {
    std::vector<View> held;
    for (std::size_t i = 0; i < ids_.size(); ++i)
        if (parts_[i] != 0) held.push_back(executor_.view(ids_[i]));
    const View sums(memory_.data(), {static_cast<std::int64_t>(held.size()), 2}, DType::i32);
    std::visit([&](auto& s) { kernels::fingerprints(s, held, sums); }, ground_.stream);
    HostCopy copy(ground_.stream, sums);
    copy.load();
    std::vector<Mark> marks;
    const auto* next = static_cast<const std::byte*>(copy.view().memory());
    for (const std::uint64_t part : parts_) {
        Mark& mark = marks.emplace_back(Mark{part, 0});
        if (part == 0) continue;
        std::memcpy(&mark.fingerprint, next, sizeof mark.fingerprint);
        next += sizeof mark.fingerprint;
    }
    return {reinterpret_cast<const char*>(marks.data()), marks.size() * sizeof(Mark)};
}

std::vector<ReplicaAudit::Difference> ReplicaAudit::compare(const std::vector<std::string>& marks) const {
    std::vector<Difference> differences;
    for (std::size_t tensor = 0; tensor < ids_.size(); ++tensor) {
        std::map<std::uint64_t, std::map<std::uint64_t, std::vector<int>>> ranks; // by part and fingerprint
        for (std::size_t rank = 0; rank < marks.size(); ++rank) {
            Mark mark{};
            std::memcpy(&mark, marks[rank].data() + tensor * sizeof(Mark), sizeof mark);
            if (mark.part != 0) ranks[mark.part][mark.fingerprint].push_back(static_cast<int>(rank));
        }
        for (const auto& [part, by_fingerprint] : ranks) {
            if (by_fingerprint.size() == 1) continue;
            Difference difference{tensor, {}, {}};
            for (const auto& [fingerprint, equal] : by_fingerprint)
                if (equal.size() > difference.most.size()) difference.most = equal;
            for (const auto& [fingerprint, equal] : by_fingerprint)
                if (equal != difference.most)
                    difference.other.insert(difference.other.end(), equal.begin(), equal.end());
            std::sort(difference.other.begin(), difference.other.end());
            differences.push_back(std::move(difference));
        }
    }
    return differences;
}

std::string ReplicaAudit::sentence(const Difference& difference) const {
    if (difference.most.size() <= difference.other.size())
        return fmt::format("'{}' is not the same on {} and {}", names_[difference.tensor], ranks_text(difference.most),
                           ranks_text(difference.other));
    return fmt::format("'{}' on {} is not what {} hold", names_[difference.tensor], ranks_text(difference.other),
                       ranks_text(difference.most));
}

void ReplicaAudit::repair(const Difference& difference) {
    Communicator& all = ground_.groups.all();
    const int source = difference.most.front();
    const bool odd = std::ranges::binary_search(difference.other, all.rank());
    if (all.rank() != source && !odd) return;
    HostCopy copy(ground_.stream, executor_.view(ids_[difference.tensor]));
    if (odd) {
        all.receive(ground_.host, copy.view(), source);
        copy.store();
        return;
    }
    copy.load();
    for (const int rank : difference.other)
        all.send(ground_.host, copy.view(), rank);
}

bool ReplicaAudit::run(std::int64_t steps_done) {
    const FlightRecorder::Scope auditing(ground_.groups.recorder(), Activity::auditing);
    const Team team = team_of(ground_.groups.all(), ground_.host);
    const std::vector<std::string> all_marks = team.gather(marks());
    std::ostringstream found; // a line for each difference: tensor, how many ranks of most, all ranks
    if (team.rank == 0)
        for (const Difference& one : compare(all_marks))
            found << fmt::format("{} {} {} {}\n", one.tensor, one.most.size(), fmt::join(one.most, " "),
                                 fmt::join(one.other, " "));
    std::istringstream lines(team.broadcast(found.str()));
    std::vector<Difference> differences;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::size_t most = 0;
        Difference& one = differences.emplace_back();
        words >> one.tensor >> most;
        for (int rank = 0; words >> rank;)
            (one.most.size() < most ? one.most : one.other).push_back(rank);
    }
    if (differences.empty()) return false;
    const auto no_majority = [](const Difference& one) { return one.most.size() <= one.other.size(); };
    const auto hopeless = std::ranges::find_if(differences, no_majority);
    const std::string rest =
        differences.size() > 1 ? fmt::format(" (and {} more such differences)", differences.size() - 1) : "";
    if (!repairs_)
        throw SystemError(fmt::format("replicas differ after step {}: {}{}; a memory or a link of these ranks errs, or "
                                      "an op is not deterministic",
                                      steps_done, sentence(differences.front()), rest));
    if (hopeless != differences.end())
        throw SystemError(fmt::format("replicas differ after step {}, and no majority tells which is right: {}{}",
                                      steps_done, sentence(*hopeless), rest));
    for (const Difference& one : differences) {
        repair(one);
        if (team.rank == 0)
            log_.warning(fmt::format("replicas differ after step {}: {}: repaired", steps_done, sentence(one)));
    }
    return true;
}

} // namespace tessera
