// SPDX-License-Identifier: Apache-2.0
// The published orders, and a walk through them that finds out when everything happens.
#include "parallel/layout/schedule.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <limits>
#include <numeric>

namespace tessera {
namespace {

constexpr std::array<std::string_view, 4> names = {"gpipe", "1f1b", "interleaved", "zero_bubble"}; // by ScheduleKind

// The i-th of a stage's forward or backward tasks: chunks take turns, a group of micro-batches at a time, with as many
// of them as there are stages.
Task turn(const Pipeline& pipeline, Work work, std::int64_t i) {
    const std::int64_t in_group = static_cast<std::int64_t>(pipeline.stages) * pipeline.chunks;
    const std::int64_t first = i / in_group * pipeline.stages;
    const std::int64_t size = std::min<std::int64_t>(pipeline.stages, pipeline.micro_batches - first);
    const std::int64_t rest = i % in_group;
    const int chunk = static_cast<int>(rest / size);
    return {work, work == Work::forward ? chunk : pipeline.chunks - 1 - chunk, first + rest % size};
}

// Forward tasks before the first backward one.
std::int64_t warm_up(const Pipeline& pipeline, int stage, std::int64_t forward_tasks) {
    const std::int64_t behind = pipeline.stages - 1 - stage;
    switch (pipeline.kind) {
    case ScheduleKind::gpipe:
        return forward_tasks;
    case ScheduleKind::one_f_one_b:
    case ScheduleKind::zero_bubble:
        return std::min(forward_tasks, behind);
    case ScheduleKind::interleaved:
        if (pipeline.chunks == 1) return std::min(forward_tasks, behind);
        return std::min(forward_tasks, 2 * behind + static_cast<std::int64_t>(pipeline.chunks - 1) * pipeline.stages);
    }
    throw InternalError(fmt::format("schedule number {}", static_cast<int>(pipeline.kind)));
}

void check(const Pipeline& pipeline) {
    if (pipeline.stages < 1 || pipeline.chunks < 1 || pipeline.micro_batches < 1)
        throw InternalError(fmt::format("a pipeline of {} stages with {} chunks and {} micro-batches", pipeline.stages,
                                        pipeline.chunks, pipeline.micro_batches));
    if (pipeline.chunks > 1 && pipeline.kind != ScheduleKind::interleaved)
        throw InternalError("only an interleaved pipeline has several chunks for a stage");
    if (pipeline.trains && pipeline.chunks > 1 && pipeline.micro_batches % pipeline.stages != 0)
        throw ConfigError(
            fmt::format("an interleaved pipeline of {} stages takes as many micro-batches in turn: the {} of "
                        "a step are no multiple of that",
                        pipeline.stages, pipeline.micro_batches));
}

// When the tasks of all stages happen.
class Walk {
public:
    Walk(const Pipeline& pipeline, const std::vector<ChunkTime>& times, const MessageTime& message)
        : pipeline_(pipeline), times_(times), message_(message),
          done_(3 * times.size() * static_cast<std::size_t>(pipeline.micro_batches), never) {
        for (int stage = 0; stage < pipeline.stages; ++stage)
            tasks_.push_back(tasks_of(pipeline, stage));
    }

    std::vector<std::vector<Span>> run() {
        std::vector<std::vector<Span>> spans(tasks_.size());
        for (bool moved = true; moved;) {
            moved = false;
            for (std::size_t stage = 0; stage < tasks_.size(); ++stage)
                while (spans[stage].size() < tasks_[stage].size()) {
                    const int place = static_cast<int>(stage);
                    const Task& task = tasks_[stage][spans[stage].size()];
                    const double ready = ready_at(place, task);
                    if (ready == never) break;
                    const double begin = std::max(ready, spans[stage].empty() ? 0 : spans[stage].back().end);
                    spans[stage].push_back({begin, begin + seconds_of(place, task)});
                    done(chunk_of(place, task), task.work, task.micro_batch) = spans[stage].back().end;
                    moved = true;
                }
        }
        for (std::size_t stage = 0; stage < tasks_.size(); ++stage)
            if (spans[stage].size() < tasks_[stage].size())
                throw InternalError(fmt::format("stage {} of the pipeline waits for ever before its task {} of {}",
                                                stage, spans[stage].size(), tasks_[stage].size()));
        return spans;
    }

private:
    static constexpr double never = std::numeric_limits<double>::infinity();

    int chunk_of(int stage, const Task& task) const { return task.chunk * pipeline_.stages + stage; }

    double& done(int chunk, Work work, std::int64_t micro_batch) {
        return done_[static_cast<std::size_t>((static_cast<std::int64_t>(chunk) * 3 + static_cast<std::int64_t>(work)) *
                                                  pipeline_.micro_batches +
                                              micro_batch)];
    }

    double from(int neighbour, Work work, std::int64_t micro_batch) {
        if (pipeline_.stages == 1) return done(neighbour, work, micro_batch);
        return done(neighbour, work, micro_batch) + (work == Work::forward ? message_.forward : message_.backward);
    }

    double ready_at(int stage, const Task& task) {
        const int chunk = chunk_of(stage, task), last = pipeline_.stages * pipeline_.chunks - 1;
        switch (task.work) {
        case Work::forward:
            return chunk == 0 ? 0 : from(chunk - 1, Work::forward, task.micro_batch);
        case Work::backward: {
            const double own = done(chunk, Work::forward, task.micro_batch);
            return chunk == last ? own : std::max(own, from(chunk + 1, Work::backward, task.micro_batch));
        }
        case Work::weights:
            return done(chunk, Work::backward, task.micro_batch);
        }
        return never;
    }

    double seconds_of(int stage, const Task& task) const {
        const ChunkTime& time = times_.at(static_cast<std::size_t>(chunk_of(stage, task)));
        switch (task.work) {
        case Work::forward:
            return time.forward;
        case Work::backward:
            return time.backward + (pipeline_.splits_backward() ? 0 : time.weights);
        case Work::weights:
            return time.weights;
        }
        return 0;
    }

    const Pipeline& pipeline_;
    const std::vector<ChunkTime>& times_;
    const MessageTime& message_;
    std::vector<double> done_; // by chunk, work and micro-batch
    std::vector<std::vector<Task>> tasks_;
};

} // namespace

ScheduleKind schedule_named(std::string_view name) {
    for (std::size_t kind = 0; kind < names.size(); ++kind)
        if (names[kind] == name) return static_cast<ScheduleKind>(kind);
    throw ConfigError(no_such_name("schedule", name, {"1f1b", "gpipe", "interleaved", "zero_bubble"}));
}

std::string_view name_of(ScheduleKind kind) { return names.at(static_cast<std::size_t>(kind)); }

std::vector<Task> tasks_of(const Pipeline& pipeline, int stage) {
    check(pipeline);
    const std::int64_t count = pipeline.micro_batches * pipeline.chunks;
    std::vector<Task> tasks;
    if (!pipeline.trains) {
        for (std::int64_t i = 0; i < count; ++i)
            tasks.push_back(turn(pipeline, Work::forward, i));
        return tasks;
    }
    std::int64_t forward = 0;
    for (const std::int64_t first = warm_up(pipeline, stage, count); forward < first; ++forward)
        tasks.push_back(turn(pipeline, Work::forward, forward));
    // A stage may keep as many micro-batches as the first one does: so the gradients of weights wait that long.
    const std::int64_t late = pipeline.splits_backward() ? stage : 0;
    for (std::int64_t backward = 0; backward < count; ++backward) {
        if (forward < count) tasks.push_back(turn(pipeline, Work::forward, forward++));
        tasks.push_back(turn(pipeline, Work::backward, backward));
        if (pipeline.splits_backward() && backward >= late) tasks.push_back({Work::weights, 0, backward - late});
    }
    for (std::int64_t i = std::max<std::int64_t>(0, count - late); pipeline.splits_backward() && i < count; ++i)
        tasks.push_back({Work::weights, 0, i});
    return tasks;
}

double Makespan::bubble() const {
    const double all = seconds * static_cast<double>(busy.size());
    return all > 0 ? 1 - std::accumulate(busy.begin(), busy.end(), 0.0) / all : 0;
}

std::vector<std::vector<Span>> timeline(const Pipeline& pipeline, const std::vector<ChunkTime>& times,
                                        const MessageTime& message) {
    check(pipeline);
    if (times.size() != static_cast<std::size_t>(pipeline.stages) * static_cast<std::size_t>(pipeline.chunks))
        throw InternalError(fmt::format("times of {} chunks for {} stages with {} each", times.size(), pipeline.stages,
                                        pipeline.chunks));
    return Walk(pipeline, times, message).run();
}

Makespan makespan(const Pipeline& pipeline, const std::vector<ChunkTime>& times, const MessageTime& message) {
    Makespan result;
    for (const std::vector<Span>& stage : timeline(pipeline, times, message)) {
        result.busy.push_back(0);
        for (const Span& task : stage) {
            result.busy.back() += task.end - task.begin;
            result.seconds = std::max(result.seconds, task.end);
        }
    }
    return result;
}

} // namespace tessera
