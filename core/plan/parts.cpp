// SPDX-License-Identifier: Apache-2.0
// What a stage does of a micro-batch, part by part; what travels between parts of different stages; and the tasks of a
// step, each with the frame that it works in.
#include "core/plan/passes.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>

namespace tessera {
namespace {

bool is_read(const Value& value) { return value.kind == ValueKind::input && !value.of_step; }

class PartsOfStage {
public:
    PartsOfStage(const Graph& graph, const Stages& stages, const Layout& layout, int stage, Plan& plan)
        : graph_(graph), stages_(stages), ranks_(layout.stages()), stage_(stage), plan_(plan),
          live_(live_nodes(graph)) {
        pipeline_ = layout.pipeline(plan.idle_rounds + plan.share.size(), trains());
    }

    std::vector<std::int32_t> run() {
        plan_.tasks.clear();
        const std::vector<Task> tasks = tasks_of(pipeline_, stage_);
        for (int chunk = 0; chunk < pipeline_.chunks; ++chunk)
            plan_.parts.push_back({.phase = Phase::forward, .work = Work::forward, .chunk = chunk});
        for (const Task& task : tasks) // the order of the last micro-batch is the order of the calls
            if (task.work != Work::forward && task.micro_batch + 1 == pipeline_.micro_batches)
                plan_.parts.push_back({.phase = Phase::backward, .work = task.work, .chunk = task.chunk});
        std::vector<std::int32_t> order = nodes_of(Phase::prepare);
        for (const Phase phase : {Phase::forward, Phase::backward})
            append(order, nodes_by_part(phase));
        append(order, nodes_of(Phase::update));
        if (ranks_ > 1) find_messages();
        find_readers();
        assign_frames(tasks);
        return order;
    }

private:
    static void append(std::vector<std::int32_t>& to, const std::vector<std::int32_t>& more) {
        to.insert(to.end(), more.begin(), more.end());
    }

    const Node& node(std::int32_t index) const { return graph_.nodes()[static_cast<std::size_t>(index)]; }
    int chunk_of(std::int32_t index) const { return stages_.chunk[static_cast<std::size_t>(index)]; }

    bool trains() const {
        return std::ranges::any_of(live_, [&](std::int32_t index) { return node(index).phase == Phase::backward; });
    }

    Work work_of(std::int32_t index) const {
        if (node(index).phase == Phase::forward) return Work::forward;
        const bool later = pipeline_.splits_backward() && stages_.weights[static_cast<std::size_t>(index)];
        return later ? Work::weights : Work::backward;
    }

    // Of this stage; -1: another stage's.
    int part_of(std::int32_t index) const {
        if (chunk_of(index) % ranks_ != stage_) return -1;
        for (std::size_t i = 0; i < plan_.parts.size(); ++i)
            if (plan_.parts[i].work == work_of(index) && plan_.parts[i].chunk == chunk_of(index) / ranks_)
                return static_cast<int>(i);
        throw InternalError(fmt::format("no part of the pipeline runs '{}'", node(index).name));
    }

    std::vector<std::int32_t> nodes_of(Phase phase) const {
        std::vector<std::int32_t> nodes;
        for (const std::int32_t index : live_) {
            const int stage = stages_.stage[static_cast<std::size_t>(index)];
            if (node(index).phase == phase && (stage < 0 || stage == stage_)) nodes.push_back(index);
        }
        return nodes;
    }

    std::vector<std::int32_t> nodes_by_part(Phase phase) {
        std::vector<std::vector<std::int32_t>> of_part(plan_.parts.size());
        for (const std::int32_t index : live_)
            if (const int part = node(index).phase == phase ? part_of(index) : -1; part >= 0)
                of_part[static_cast<std::size_t>(part)].push_back(index);
        std::vector<std::int32_t> nodes;
        for (std::size_t i = 0; i < of_part.size(); ++i) {
            if (plan_.parts[i].phase != phase) continue;
            const auto begin = static_cast<std::int64_t>(nodes.size());
            append(nodes, of_part[i]);
            plan_.parts[i].calls = {begin, static_cast<std::int64_t>(nodes.size())};
        }
        return nodes;
    }

    // A value goes once to each other chunk that takes it, and is there for the first part that does.
    void find_messages() {
        std::map<std::pair<ValueId, int>, std::int32_t> first_use; // by value and chunk
        for (const std::int32_t index : live_) {
            if (!of_micro_batch(node(index))) continue;
            for (const ValueId id : node(index).inputs) {
                const std::int32_t maker = graph_.value(id).producer;
                if (maker < 0 || !of_micro_batch(node(maker)) || chunk_of(maker) == chunk_of(index)) continue;
                const auto [found, is_new] = first_use.emplace(std::pair(id, chunk_of(index)), index);
                if (!is_new && work_of(index) < work_of(found->second)) found->second = index;
            }
        }
        for (const auto& [key, user] : first_use) {
            const ValueId id = key.first;
            const std::int32_t maker = graph_.value(id).producer;
            const int from = chunk_of(maker) % ranks_, to = key.second % ranks_;
            const auto channel = static_cast<int>(plan_.routes.size()); // all stages find the same routes
            plan_.routes.push_back({id, chunk_of(maker), key.second, work_of(maker), work_of(user), channel});
            check_order(plan_.routes.back());
            if (from == stage_) part(part_of(maker)).sends.push_back({id, to, channel});
            if (to == stage_) part(part_of(user)).receives.push_back({id, from, channel});
        }
    }

    // The forward pass leads up the chunks and the backward one down: a message that leads otherwise would be waited
    // for for ever.
    void check_order(const Route& route) const {
        const bool in_order = route.makes == Work::forward    ? route.takes != Work::forward || route.from < route.to
                              : route.makes == Work::backward ? route.takes != Work::forward && route.from > route.to
                                                              : false;
        if (!in_order)
            throw InternalError(
                fmt::format("'{}' leads from chunk {} of the pipeline to chunk {}, which comes before it",
                            graph_.value(route.value).name, route.from, route.to));
    }

    Part& part(int index) { return plan_.parts[static_cast<std::size_t>(index)]; }

    void find_readers() {
        int reader = -1;
        for (const std::int32_t index : live_) {
            if (!of_micro_batch(node(index)) || chunk_of(index) % ranks_ != stage_) continue;
            if (std::ranges::none_of(node(index).inputs, [&](ValueId id) { return is_read(graph_.value(id)); }))
                continue;
            const int chunk = chunk_of(index) / ranks_;
            if (reader >= 0 && reader != chunk)
                throw ConfigError(fmt::format("two chunks of stage {} read the data: take fewer for each", stage_));
            reader = chunk;
        }
        for (Part& part : plan_.parts)
            part.reads_batch = part.work == Work::forward && (part.chunk == reader || (reader < 0 && ranks_ == 1));
    }

    // A micro-batch has a frame from its forward part to the last that its chunk does of it.
    void assign_frames(const std::vector<Task>& tasks) {
        std::vector<std::vector<std::int64_t>> frames(static_cast<std::size_t>(pipeline_.chunks)); // who has them
        constexpr std::int64_t nobody = -1;
        const Work last = !pipeline_.trains             ? Work::forward
                          : pipeline_.splits_backward() ? Work::weights
                                                        : Work::backward;
        for (const Task& task : tasks) {
            std::vector<std::int64_t>& those = frames[static_cast<std::size_t>(task.chunk)];
            auto frame = std::ranges::find(those, task.work == Work::forward ? nobody : task.micro_batch);
            if (frame == those.end()) frame = those.insert(frame, nobody);
            *frame = task.work == last ? nobody : task.micro_batch;
            const auto part = std::ranges::find_if(
                plan_.parts, [&](const Part& one) { return one.work == task.work && one.chunk == task.chunk; });
            plan_.tasks.push_back({static_cast<int>(part - plan_.parts.begin()), task.micro_batch - plan_.idle_rounds,
                                   static_cast<int>(frame - those.begin())});
        }
        for (const auto& those : frames)
            if (ranks_ > 1) plan_.frames.push_back({.count = static_cast<int>(those.size())});
    }

    const Graph& graph_;
    const Stages& stages_;
    int ranks_;
    int stage_;
    Plan& plan_;
    std::vector<std::int32_t> live_;
    Pipeline pipeline_;
};

} // namespace

std::vector<std::int32_t> plan_parts(const Graph& graph, const Stages& stages, const Layout& layout, int stage,
                                     Plan& plan) {
    return PartsOfStage(graph, stages, layout, stage, plan).run();
}

} // namespace tessera
