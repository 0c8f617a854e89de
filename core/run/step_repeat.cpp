// SPDX-License-Identifier: Apache-2.0
// What decides is what the update takes: sums over micro-batches and ranks. What every node made is marked as well,
// since after a sum over ranks all of them differ: the earliest mark that differs says who began it. Some ops leave a
// part of their outputs' memory as it was, so marks alone decide nothing.
#include "core/run/step_repeat.hpp"

#include "core/checkpoint/manifest.hpp"
#include "core/data/options.hpp"
#include "core/run/held_part.hpp"
#include "core/run/weights.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "kernels/fingerprint.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <sstream>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::int64_t most_pending = 4096; // fingerprints; then the host fetches them
constexpr std::int32_t batch_node = -1;
constexpr std::size_t key_digits = 20; // of the round and the node

// Any type, as words of 4 bytes; a rest of fewer is left out.
View words_of(const View& view) { return {view.memory(), {view.bytes() / 4}, DType::i32}; }

} // namespace

StepRepeat::StepRepeat(const Ground& ground, const Experiment& experiment, Executor& executor)
    : ground_(ground), experiment_(experiment), executor_(executor), interval_(ground.config.get(repeat_interval)) {
    if (interval_ == 0) return;
    const Plan& plan = experiment.train.plan;
    for (const std::vector<Call>& calls : plan.phases)
        for (const Call& call : calls)
            numbers_[&plan.graph.nodes()[static_cast<std::size_t>(call.node)]] = call.node;
    for (std::size_t i = 0; i < plan.graph.values().size(); ++i) {
        const auto id = static_cast<ValueId>(i);
        if (plan.graph.value(id).accumulated && !part_at_rest(experiment.train, id).boxes.empty())
            summed_.push_back(id);
    }
    const std::int64_t most = std::max(most_pending, static_cast<std::int64_t>(summed_.size()));
    memory_ = std::visit([&](const auto& s) { return allocate(s, 8 * most); }, ground.stream);
}

void StepRepeat::check_keys(const Config& config) {
    const std::int64_t steps = config.get(repeat_interval);
    if (steps < 0) config.refuse(repeat_interval.name, "must be at least 0");
    if (steps > 0 && !config.get(run_reproducible))
        config.refuse(repeat_interval.name,
                      "wants sums whose bits do not change by themselves: run.reproducible = true");
}

std::int64_t StepRepeat::bytes_for(const Config& config, const Experiment& experiment) {
    if (config.get(repeat_interval) == 0) return 0;
    return Loader::buffer_bytes(experiment.sizes.sample.fields, experiment.train_loader(0));
}

std::vector<std::uint64_t> StepRepeat::fingerprints_of(std::span<const View> views) {
    const View sums(memory_.data(), {static_cast<std::int64_t>(views.size()), 2}, DType::i32);
    std::vector<std::uint64_t> found(views.size());
    if (views.empty()) return found;
    std::visit(
        [&](auto& s) {
            kernels::fingerprints(s, views, sums);
            kernels::download(s, sums, View(found.data(), sums.shape, sums.dtype));
        },
        ground_.stream);
    return found;
}

void StepRepeat::take_pending() {
    if (pending_ == 0) return;
    const View marks(memory_.data(), {pending_, 2}, DType::i32);
    seen_.resize(seen_.size() + static_cast<std::size_t>(pending_));
    const View end(seen_.data() + seen_.size() - static_cast<std::size_t>(pending_), marks.shape, marks.dtype);
    std::visit([&](auto& s) { kernels::download(s, marks, end); }, ground_.stream);
    pending_ = 0;
}

void StepRepeat::mark(const Mark& place, const View& view) {
    if (view.memory() == nullptr || view.bytes() < 4) return;
    marked_.push_back(place);
    if (std::holds_alternative<CpuStream>(ground_.stream)) { // with fingerprints a repeated step took 3.7 steps, so 2.6
        seen_.push_back(Hash::of(view.data, view.bytes()));
        return;
    }
    const View sum(memory_.data() + 8 * pending_, {1, 2}, DType::i32);
    const std::array<View, 1> words{words_of(view)};
    std::visit([&](auto& s) { kernels::fingerprints(s, words, sum); }, ground_.stream);
    if (++pending_ == most_pending) take_pending();
}

// What comes from another stage is marked where it is made.
void StepRepeat::see(const Node& node, std::int64_t micro_batch, std::span<const View> outputs) {
    const auto number = numbers_.find(&node);
    if (number == numbers_.end()) return;
    const std::int64_t idle = experiment_.train.plan.idle_rounds;
    const std::int64_t round = node.phase == Phase::prepare ? -1 : micro_batch < 0 ? 0 : idle + micro_batch;
    for (std::size_t i = 0; i < outputs.size(); ++i)
        mark({static_cast<std::int32_t>(round), number->second, static_cast<std::int32_t>(i)}, outputs[i]);
}

StepRepeat::Computation StepRepeat::compute(const StepState& state, const std::function<void()>& next_batch) {
    std::int32_t batches = 0;
    marked_.clear();
    seen_.clear();
    executor_.watch([this](const Node& node, std::int64_t micro_batch, std::span<const View> outputs) {
        see(node, micro_batch, outputs);
    });
    executor_.prepare(state);
    executor_.run_micro_batches(state, experiment_.batch.micro_batch, [&] {
        next_batch();
        const auto round = static_cast<std::int32_t>(experiment_.train.plan.idle_rounds) + batches++;
        for (std::size_t i = 0; i < executor_.batch().size(); ++i)
            mark({round, batch_node, static_cast<std::int32_t>(i)}, executor_.batch()[i]);
    });
    executor_.watch({});
    take_pending();
    ground_.groups.wait(ground_.stream);
    std::vector<View> sums;
    for (const ValueId id : summed_)
        sums.push_back(words_of(view_at_rest(executor_, experiment_.train.plan, id)));
    Computation made{std::move(seen_), {}};
    made.sums = fingerprints_of(sums);
    return made;
}

StepRepeat::Computation StepRepeat::compute_again(const StepState& state) {
    LoaderOptions options = experiment_.train_loader(state.step);
    options.end_step = state.step + 1;
    Loader loader(ground_.dataset,
                  SampleOrder(order_options(ground_.config, ground_.dataset, Split::train, experiment_.seed,
                                            experiment_.batch.global)),
                  options, loader_memory(ground_.stream, experiment_.sizes.sample.fields, options));
    return compute(state, [&] { loader.next(ground_.stream, executor_.batch()); });
}

// On all ranks.
bool StepRepeat::alike(const Computation& one, const Computation& other) const {
    return team_of(ground_.groups.all(), ground_.host).all(one.sums == other.sums);
}

std::string StepRepeat::name_of(const Mark& place) const {
    if (place.node == batch_node) return fmt::format("the samples of its micro-batch {}", place.round + 1);
    const Plan& plan = experiment_.train.plan;
    const Node& node = plan.graph.nodes()[static_cast<std::size_t>(place.node)];
    const std::string& name = plan.graph.value(node.outputs[static_cast<std::size_t>(place.output)]).name;
    if (node.phase == Phase::prepare) return fmt::format("'{}' (weights in use)", name);
    return fmt::format("'{}' ({} pass, its micro-batch {})", name,
                       node.phase == Phase::forward ? "forward" : "backward", place.round + 1);
}

// Of this rank, behind digits that order what the ranks say; "" where it made the same each time.
std::string StepRepeat::first_difference(const Computation& one, const Computation& other) const {
    std::size_t first = marked_.size();
    const auto key = [&](std::size_t i) { return std::pair(marked_[i].round, marked_[i].node); };
    for (std::size_t i = 0; i < marked_.size(); ++i)
        if (one.marks[i] != other.marks[i] && (first == marked_.size() || key(i) < key(first))) first = i;
    if (first < marked_.size())
        return fmt::format("{:010}{:010}{}", marked_[first].round + 1, marked_[first].node + 1,
                           name_of(marked_[first]));
    const auto sum = std::ranges::mismatch(one.sums, other.sums).in1 - one.sums.begin();
    if (sum == std::ssize(one.sums)) return "";
    return fmt::format("{0:9>10}{0:9>10}the sum of '{1}' over micro-batches and ranks", "",
                       experiment_.train.plan.graph.value(summed_[static_cast<std::size_t>(sum)]).name);
}

// The rank whose difference is the earliest, the same on all ranks.
StepRepeat::Fault StepRepeat::locate(const Computation& one, const Computation& other) const {
    const Team team = team_of(ground_.groups.all(), ground_.host);
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    const std::string mine = first_difference(one, other);
    const std::vector<std::string> all = team.gather(mine.empty() ? "" : fmt::format("{} on {}", mine, host.data()));
    std::string first;
    for (std::size_t rank = 0; rank < all.size(); ++rank)
        if (!all[rank].empty() && (first.empty() || all[rank].substr(0, key_digits) < first.substr(0, key_digits)))
            first = fmt::format("{}{} {}", all[rank].substr(0, key_digits), rank, all[rank].substr(key_digits));
    std::istringstream words(team.broadcast(first).substr(key_digits));
    Fault fault;
    words >> fault.rank >> std::ws;
    std::getline(words, fault.where);
    fault.where = fmt::format("rank {}: {}", fault.rank, fault.where);
    return fault;
}

std::string StepRepeat::run(const StepState& state, const std::function<void()>& next_batch) {
    const Computation first = compute(state, next_batch);
    const Computation second = compute_again(state);
    if (alike(first, second)) {
        last_rank_ = -1;
        return "";
    }
    const Computation third = compute_again(state);
    const bool first_is_odd = alike(second, third), second_is_odd = alike(first, third);
    const Fault fault = locate(first, second);
    const auto end = [&](const char* why) {
        throw SystemError(
            fmt::format("lasting fault at step {}: {}: {}; a processor or a memory there errs, or an op is not "
                        "deterministic",
                        state.step + 1, fault.where, why));
    };
    if (!first_is_odd && !second_is_odd) end("three computations from the same weights and samples all differ");
    if (fault.rank == last_rank_) end("two computations differ, as the time before");
    last_rank_ = fault.rank;
    return fmt::format(
        "transient fault at step {}: {}: the {} of three computations differs from the other two, with which "
        "the run goes on (such faults so far: {})",
        state.step + 1, fault.where, first_is_odd ? "first" : "second", ++faults_);
}

} // namespace tessera
