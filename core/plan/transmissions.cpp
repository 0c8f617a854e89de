// SPDX-License-Identifier: Apache-2.0
// A message that a forward part waits for is sent when that part begins: its frame is free by then, and the sender
// keeps the value for its backward part. One that a later part waits for is sent when it has been made: its place in
// the receiver's frame is there since the forward part. The order of these times is the same on all stages.
#include "core/plan/plan.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <tuple>

namespace tessera {
namespace {

class Times {
public:
    explicit Times(const Pipeline& pipeline)
        : pipeline_(pipeline),
          spans_(timeline(pipeline, std::vector<ChunkTime>(static_cast<std::size_t>(pipeline.stages * pipeline.chunks),
                                                           {1, 1, 1}))) {
        for (int stage = 0; stage < pipeline.stages; ++stage) {
            const std::vector<Task> tasks = tasks_of(pipeline, stage);
            for (std::size_t i = 0; i < tasks.size(); ++i)
                tasks_.emplace(
                    std::tuple(tasks[i].chunk * pipeline.stages + stage, tasks[i].work, tasks[i].micro_batch), i);
        }
    }

    const Span& of(int chunk, Work work, std::int64_t micro_batch) const {
        return spans_[static_cast<std::size_t>(chunk % pipeline_.stages)][task(chunk, work, micro_batch)];
    }

    std::size_t task(int chunk, Work work, std::int64_t micro_batch) const {
        return tasks_.at(std::tuple(chunk, work, micro_batch));
    }

    // The first task of the stage that begins then or later.
    std::size_t task_from(int stage, double time) const {
        const std::vector<Span>& spans = spans_[static_cast<std::size_t>(stage)];
        const auto first = std::ranges::find_if(spans, [&](const Span& span) { return span.begin >= time; });
        return static_cast<std::size_t>(first - spans.begin());
    }

private:
    Pipeline pipeline_;
    std::vector<std::vector<Span>> spans_;
    std::map<std::tuple<int, Work, std::int64_t>, std::size_t> tasks_;
};

} // namespace

std::vector<Transmission> transmissions_of(const Plan& plan, const Layout& layout, int stage) {
    if (layout.stages() == 1) return {};
    const bool trains = !plan.calls(Phase::backward).empty();
    const Pipeline pipeline = layout.pipeline(plan.idle_rounds + plan.share.size(), trains);
    struct Event {
        double time;
        std::int64_t micro_batch;
        const Route* route;
    };
    for (const Route& route : plan.routes) // the times below rest on it
        if ((route.makes == Work::forward && route.takes != Work::forward) || (!trains && route.to != route.from + 1))
            throw InternalError(fmt::format("'{}' leads from chunk {} to chunk {} of a pipeline when no frame has it",
                                            plan.graph.value(route.value).name, route.from, route.to));
    const Times times(pipeline);
    std::vector<Event> events;
    for (const Route& route : plan.routes)
        for (std::int64_t i = 0; i < pipeline.micro_batches; ++i)
            if (route.from % pipeline.stages == stage || route.to % pipeline.stages == stage)
                events.push_back({route.takes == Work::forward ? times.of(route.to, route.takes, i).begin
                                                               : times.of(route.from, route.makes, i).end,
                                  i, &route});
    std::ranges::sort(events, {}, [](const Event& one) {
        return std::tuple(one.time, one.route->from, one.route->to, one.route->channel, one.micro_batch);
    });
    std::vector<Transmission> result;
    for (const Event& event : events) {
        const Route& route = *event.route;
        const bool sends = route.from % pipeline.stages == stage;
        const std::size_t own = sends ? times.task(route.from, route.makes, event.micro_batch)
                                      : times.task(route.to, route.takes, event.micro_batch);
        result.push_back({times.task_from(stage, event.time),
                          sends,
                          {route.value, (sends ? route.to : route.from) % pipeline.stages, route.channel, route.lost},
                          plan.tasks[own].frame});
    }
    return result;
}

} // namespace tessera
