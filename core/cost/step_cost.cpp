// SPDX-License-Identifier: Apache-2.0
// Adds up what the calls and exchanges of a plan take.
#include "core/cost/step_cost.hpp"

#include "core/cost/collective_cost.hpp"
#include "core/plan/shares.hpp"
#include "core/plan/traffic.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

namespace tessera {

namespace {

double sum(const std::vector<double>& seconds) { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

} // namespace

double PhaseCost::total() const { return calls() + sum(transfers); }

double StepCost::total() const { return products + attention + elementwise + update + sum(waits) + bubble; }

namespace {

bool contains(const std::vector<int>& axes, int axis) { return std::ranges::find(axes, axis) != axes.end(); }

// Whoever has fewer micro-batches waits for those who have most.
double rounds_of(const Layout& layout) { return static_cast<double>(share_sizes(layout).most); }

// A plan on a machine.
struct OnMachine {
    const Plan& plan;
    const Layout& layout;
    const Machine& machine;
    std::vector<AxisPlace> places; // by axis

    std::size_t axes() const { return places.size(); }
    const Node& node(const Call& call) const { return plan.graph.nodes()[static_cast<std::size_t>(call.node)]; }
};

OnMachine on_machine(const Plan& plan, const Layout& layout, const Machine& machine) {
    OnMachine on{plan, layout, machine, {}};
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        on.places.push_back(place_of(layout.mesh, axis, 0, machine.ranks_per_node));
    return on;
}

std::vector<TensorType> seen_types(const OnMachine& on, const std::vector<ValueId>& ids, Phase phase) {
    std::vector<TensorType> types;
    for (const ValueId id : ids)
        types.push_back(on.plan.seen(id, phase));
    return types;
}

std::int64_t bytes_of(const std::vector<TensorType>& types) {
    std::int64_t bytes = 0;
    for (const TensorType& type : types)
        bytes += type.bytes();
    return bytes;
}

// Of halos, by the rank that sends most: those at an edge of the image have one neighbour.
std::vector<Moved> most_moved_by(const OnMachine& on, const Node& node) {
    std::vector<Moved> most = moved_by(node, on.plan, on.layout, on.plan.coordinate);
    for (std::size_t i = 0; i < most.size(); ++i) {
        if (most[i].transfer.collective != Collective::halo) continue;
        std::vector<int> coordinate = on.plan.coordinate;
        int& place = coordinate[static_cast<std::size_t>(most[i].transfer.axis)];
        for (place = 0; place < on.layout.mesh.axis(most[i].transfer.axis).size; ++place)
            most[i].bytes = std::max(most[i].bytes, moved_by(node, on.plan, on.layout, coordinate)[i].bytes);
    }
    return most;
}

// Adds a call to its phase and returns its seconds.
double add_call(const OnMachine& on, const Node& node, PhaseCost& cost) {
    const std::vector<TensorType> in = seen_types(on, node.inputs, node.phase);
    const std::vector<TensorType> out = seen_types(on, node.outputs, node.phase);
    const std::optional<Op::Transfer> transfer = node.op->transfer();
    double moving = 0;
    for (const Moved& moved : most_moved_by(on, node)) {
        const auto axis = static_cast<std::size_t>(moved.transfer.axis);
        if (moved.bytes == 0) continue;
        const double seconds = seconds_of(moved.transfer.collective, moved.bytes, on.places[axis], on.machine);
        cost.transfers[axis] += seconds;
        moving += seconds;
    }
    const bool slices = transfer && transfer->collective == Collective::slice;
    if (transfer && !slices && !is_within_op(transfer->collective)) return moving;
    std::int64_t bytes = slices ? 2 * bytes_of(out) : bytes_of(in) + bytes_of(out);
    for (const int written : node.op->writes())
        bytes += in[static_cast<std::size_t>(written)].bytes();
    double flops = node.op->flops(in, out);
    if (moving > 0 && transfer->collective == Collective::ring)
        flops *= on.layout.mesh.axis(transfer->axis).size; // its rows meet the keys of all ranks
    const bool attention = node.op->name().find("attention") != std::string_view::npos;
    const DType dtype = in[0].dtype;
    const double speed = attention ? on.machine.attention_flops(dtype) : on.machine.product_flops(dtype);
    const double work = flops == 0 ? 0 : flops / speed;
    const double seconds =
        std::max(work, static_cast<double>(bytes) / on.machine.memory_bandwidth) + on.machine.call_seconds;
    (flops == 0 ? cost.elementwise : attention ? cost.attention : cost.products) += seconds;
    return moving + seconds;
}

// Sums over the data axis are scattered one by one, all others go as neighbours.
double seconds_of(const Exchange& exchange, const OnMachine& on) {
    const AxisPlace& place = on.places[static_cast<std::size_t>(exchange.axis)];
    double seconds = 0;
    if (exchange.collective != Collective::reduce_scatter) {
        for (const SlotPiece& piece : pieces_of(exchange, on.plan))
            seconds += seconds_of(exchange.collective, piece.bytes, place, on.machine);
        return seconds;
    }
    for (const ValueId id : exchange.values)
        seconds += seconds_of(exchange.collective, on.plan.value(id).local.bytes(), place, on.machine);
    return seconds;
}

double seconds_of(const Part& part, const std::vector<double>& calls) {
    return std::accumulate(calls.begin() + part.calls.begin, calls.begin() + part.calls.end, 0.0);
}

using CallSeconds = std::array<std::vector<double>, 4>; // by phase and call

// When so many calls of the last micro-batch's backward pass are done, if no stage waits for another. Between its parts
// are other micro-batches'.
std::vector<double> times_of_last_backward(const Plan& plan, const CallSeconds& calls) {
    std::vector<double> done{0};
    double now = 0;
    for (const PlannedTask& task : plan.tasks) {
        const Part& part = plan.parts[static_cast<std::size_t>(task.part)];
        const std::vector<double>& seconds = calls[static_cast<std::size_t>(part.phase)];
        if (part.phase != Phase::backward || task.micro_batch + 1 != plan.share.size()) {
            now += seconds_of(part, seconds);
            continue;
        }
        for (std::int64_t i = part.calls.begin; i < part.calls.end; ++i)
            done.push_back(now += seconds[static_cast<std::size_t>(i)]);
    }
    return done;
}

// The last backward pass with its exchanges, as the executor runs it: those over the data ranks follow each other on a
// stream of their own, where the machine has such streams, and those over other axes wait for them.
void add_exchanges(const OnMachine& on, const std::vector<double>& done, const std::vector<int>& beside,
                   RankCost& cost) {
    double late = 0; // what the calls have waited
    double then = 0; // on the other stream
    const auto data = static_cast<std::size_t>(on.layout.data_axis);
    for (const Exchange& exchange : on.plan.exchanges) {
        const double now = done.at(exchange.after) + late;
        const double seconds = seconds_of(exchange, on);
        const auto axis = static_cast<std::size_t>(exchange.axis);
        cost.exchanges[axis] += seconds;
        if ((on.layout.shares_micro_batches(exchange.axis) && on.machine.gpu) || contains(beside, exchange.axis)) {
            then = std::max(now, then) + seconds;
            continue;
        }
        const double waits = std::max(then - now, 0.0);
        cost.exchanges_after[data] += waits;
        cost.exchanges_after[axis] += seconds;
        late += waits + seconds;
    }
    cost.exchanges_after[data] += std::max(then - done.back() - late, 0.0);
}

// Weights that are gathered ahead travel beside the work, on a stream of their own where the machine has such streams:
// a call that needs them, or is of the same axis, waits for what is left. Returns what is hidden of a run of the phase,
// which then stands neither in `seconds` nor in `cost`.
double gather_beside(const OnMachine& on, const std::vector<Call>& calls, std::vector<double>& seconds,
                     PhaseCost& cost) {
    if (!on.machine.gpu) return 0;
    const auto data = static_cast<std::size_t>(on.layout.data_axis);
    std::vector<double> arrives(calls.size(), 0); // before a call
    double now = 0, then = 0, hidden = 0;         // on the two streams
    for (std::size_t i = 0; i < calls.size(); ++i) {
        const std::optional<Op::Transfer> transfer = on.node(calls[i]).op->transfer();
        const double there = transfer && transfer->axis == on.layout.data_axis ? then : arrives[i];
        if (calls[i].ahead_of >= 0) {
            then = std::max(now, then) + seconds[i];
            arrives[static_cast<std::size_t>(calls[i].ahead_of)] = then;
            cost.transfers[data] -= seconds[i];
            hidden += std::exchange(seconds[i], 0);
            continue;
        }
        const double waits = std::max(there - now, 0.0);
        now += waits + seconds[i];
        seconds[i] += waits;
        cost.transfers[data] += waits;
        hidden -= waits;
    }
    return hidden;
}

// Moves what an axis waits for in a phase behind the work of the phase, as far as that reaches.
void hide(int axis, double& work, PhaseCost& phase, double& hidden) {
    double& seconds = phase.transfers[static_cast<std::size_t>(axis)];
    const double most = std::min(seconds, work);
    seconds -= most;
    work -= most;
    hidden += most;
}

// Seconds of a step that go on beside the work, and no longer stand in `rank`.
double hide(const std::vector<int>& axes, double rounds, RankCost& rank) {
    PhaseCost& forward = rank.phases[static_cast<std::size_t>(Phase::forward)];
    PhaseCost& backward = rank.phases[static_cast<std::size_t>(Phase::backward)];
    double in_forward = 0, in_backward = 0, once = 0;
    double work_forward = forward.calls(), work_backward = backward.calls();
    for (const int axis : axes) {
        hide(axis, work_forward, forward, in_forward);
        hide(axis, work_backward, backward, in_backward);
    }
    for (const int axis : axes) // between two steps
        for (const Phase phase : {Phase::update, Phase::prepare})
            hide(axis, work_forward, rank.phases[static_cast<std::size_t>(phase)], once);
    return rounds * (in_forward + in_backward) + once;
}

} // namespace

namespace {

// By part. What a phase hides beside its work is hidden in all of its parts alike.
void add_parts(const OnMachine& on, const CallSeconds& calls, RankCost& cost) {
    cost.chunks.resize(static_cast<std::size_t>(on.layout.chunks_per_stage));
    for (const Part& part : on.plan.parts) {
        const std::vector<double>& seconds = calls[static_cast<std::size_t>(part.phase)];
        const double all = sum(seconds);
        const double waited = all == 0 ? 1 : cost.phase(part.phase).total() / all;
        ChunkTime& chunk = cost.chunks.at(static_cast<std::size_t>(part.chunk));
        (part.work == Work::forward    ? chunk.forward
         : part.work == Work::backward ? chunk.backward
                                       : chunk.weights) += waited * seconds_of(part, seconds);
        double message = 0;
        for (const StageMessage& sent : part.sends)
            message += seconds_of_send(on.plan.value(sent.value).local.bytes(),
                                       on.places[static_cast<std::size_t>(on.layout.pipeline_axis)], on.machine);
        double& most = part.work == Work::forward ? cost.message.forward : cost.message.backward;
        most = std::max(most, message);
    }
}

} // namespace

std::vector<double> seconds_of_calls(const Plan& plan, const Layout& layout, const Machine& machine, Phase phase) {
    const OnMachine on = on_machine(plan, layout, machine);
    PhaseCost sums;
    sums.transfers.resize(on.axes());
    std::vector<double> seconds;
    for (const Call& call : plan.calls(phase))
        seconds.push_back(add_call(on, on.node(call), sums));
    return seconds;
}

RankCost cost_of_rank(const Plan& plan, const Layout& layout, const Machine& machine, const std::vector<int>& beside) {
    const OnMachine on = on_machine(plan, layout, machine);
    RankCost cost;
    CallSeconds calls, on_stream; // the latter without what goes on beside
    for (const Phase phase : {Phase::prepare, Phase::forward, Phase::backward, Phase::update}) {
        PhaseCost& phase_cost = cost.phases[static_cast<std::size_t>(phase)];
        phase_cost.transfers.resize(on.axes());
        for (const Call& call : plan.calls(phase)) {
            const double seconds = add_call(on, on.node(call), phase_cost);
            calls[static_cast<std::size_t>(phase)].push_back(seconds);
        }
        const double ahead = gather_beside(on, plan.calls(phase), calls[static_cast<std::size_t>(phase)], phase_cost);
        const bool in_micro_batch = phase == Phase::forward || phase == Phase::backward;
        cost.hidden += in_micro_batch ? rounds_of(layout) * ahead : ahead;
        for (std::size_t i = 0; i < plan.calls(phase).size(); ++i) {
            const std::optional<Op::Transfer> transfer = on.node(plan.calls(phase)[i]).op->transfer();
            const bool hides = transfer && contains(beside, transfer->axis);
            on_stream[static_cast<std::size_t>(phase)].push_back(hides ? 0 : calls[static_cast<std::size_t>(phase)][i]);
        }
    }
    // Whatever the order of the summation tree: n sums are made one by n - 1 merges, each of which reads two.
    cost.merge =
        std::max(rounds_of(layout) - 1, 0.0) * 3 * static_cast<double>(plan.slot_bytes) / machine.memory_bandwidth;
    cost.exchanges.resize(on.axes());
    cost.exchanges_after.resize(on.axes());
    add_exchanges(on, times_of_last_backward(plan, on_stream), beside, cost);
    cost.hidden += sum(cost.exchanges) - sum(cost.exchanges_after) + hide(beside, rounds_of(layout), cost);
    add_parts(on, calls, cost);
    return cost;
}

namespace {

// All of a step but the bubble and the model's operations.
StepCost work_of(const RankCost& rank, double rounds) {
    StepCost step;
    step.waits = rank.exchanges_after;
    step.hidden = rank.hidden;
    const auto add = [&](const PhaseCost& phase, double runs) {
        step.products += runs * phase.products;
        step.attention += runs * phase.attention;
        step.elementwise += runs * phase.elementwise;
        for (std::size_t axis = 0; axis < step.waits.size(); ++axis)
            step.waits[axis] += runs * phase.transfers[axis];
    };
    add(rank.phase(Phase::forward), rounds);
    add(rank.phase(Phase::backward), rounds);
    for (const Phase phase : {Phase::prepare, Phase::update}) {
        step.update += rank.phase(phase).calls();
        for (std::size_t axis = 0; axis < step.waits.size(); ++axis)
            step.waits[axis] += rank.phase(phase).transfers[axis];
    }
    step.elementwise += rank.merge;
    return step;
}

// What a stage does but once: before the first micro-batch and after the last.
double once(const RankCost& rank) {
    return rank.phase(Phase::prepare).total() + rank.phase(Phase::update).total() + rank.merge +
           sum(rank.exchanges_after);
}

} // namespace

StepCost cost_of(const std::vector<RankCost>& stages, const Plan& plan, const Layout& layout) {
    const Pipeline pipeline = layout.pipeline(share_sizes(layout).most, true);
    std::vector<ChunkTime> times; // by chunk of the whole pipeline
    for (int chunk = 0; chunk < pipeline.chunks; ++chunk)
        for (const RankCost& stage : stages)
            times.push_back(stage.chunks.at(static_cast<std::size_t>(chunk)));
    MessageTime message;
    double latest = 0;
    for (const RankCost& stage : stages) {
        message.forward = std::max(message.forward, stage.message.forward);
        message.backward = std::max(message.backward, stage.message.backward);
        latest = std::max(latest, once(stage));
    }
    const Makespan span = makespan(pipeline, times, message);
    const auto busiest = std::ranges::max_element(span.busy);
    const RankCost& shown = stages[static_cast<std::size_t>(busiest - span.busy.begin())];
    StepCost step = work_of(shown, static_cast<double>(pipeline.micro_batches));
    if (stages.size() > 1) step.bubble = std::max(0.0, span.seconds + latest - *busiest - once(shown));
    step.flops_per_second =
        plan.flops_per_micro_batch * static_cast<double>(layout.micro_batches) / layout.mesh.size() / step.total();
    return step;
}

StepCost cost_of(const Plan& plan, const Layout& layout, const Machine& machine, const std::vector<int>& beside) {
    return cost_of({cost_of_rank(plan, layout, machine, beside)}, plan, layout);
}

} // namespace tessera
