// SPDX-License-Identifier: Apache-2.0
// The text of a plan, section by section.
#include "core/run/describe_plan.hpp"

#include "core/plan/shares.hpp"
#include "core/plan/traffic.hpp"
#include "core/run/fit.hpp"
#include "core/with_thousands.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <numeric>

namespace tessera {

namespace {

using Lines = std::back_insert_iterator<std::string>;

std::string text_of(const Placements& placements) {
    std::vector<std::string> texts;
    for (const Placement placement : placements)
        texts.push_back(placement.text());
    return fmt::format("{}", fmt::join(texts, " "));
}

void parameters(const Program& program, Lines out) {
    const Graph& graph = program.model.graph;
    const std::vector<ValueId> ids = graph.of_kind(ValueKind::parameter);
    std::size_t width = 4;
    for (const ValueId id : ids)
        width = std::max(width, graph.value(id).name.size());
    const std::int64_t count = parameter_count(graph), active = active_parameter_count(program.model);
    const std::int64_t trained_count = trained_parameter_count(graph);
    const std::string of_a_token =
        active == count ? "" : fmt::format(", of which {} work on a token", with_thousands(active));
    const std::string of_all =
        trained_count == count ? "" : fmt::format(", of which {} are trained", with_thousands(trained_count));
    fmt::format_to(out, "\nParameters {}{}{}, placement of weight, gradient and optimizer state by mesh axis\n",
                   with_thousands(count), of_a_token, of_all);
    for (const ValueId id : ids) {
        Placements gradient;
        for (std::size_t i = 0; i < graph.values().size(); ++i)
            if (graph.values()[i].gradient_of == id) gradient = program.plan.values[i].placements;
        Placements state = program.plan.value(id).placements;
        for (const ValueId other : graph.of_kind(ValueKind::optimizer_state))
            if (graph.value(other).name.ends_with("/" + graph.value(id).name))
                state = program.plan.value(other).placements;
        const std::string trained =
            graph.value(id).parameter->frozen ? "frozen" : fmt::format("{} {}", text_of(gradient), text_of(state));
        fmt::format_to(out, "  {:<{}}  {:<18}  {} {}\n", graph.value(id).name, width,
                       graph.value(id).shape_outside().text(), text_of(program.plan.value(id).placements), trained);
    }
}

// How the ranks of an axis reach each other.
std::string_view way_of(const Program& program, const Stream& stream) {
    if (!std::holds_alternative<CpuStream>(stream)) return "by NCCL";
    return program.layout.one_host ? "in shared memory" : "by messages";
}

// "forward       all_reduce      4 calls in each of 6 micro-batches            1,234"
void line_of_collectives(std::string_view when, Collective collective, const std::string& what, std::int64_t bytes,
                         Lines out) {
    fmt::format_to(out, "    {:<9}  {:<14}  {:<44}  {:>17}\n", when, name_of(collective), what, with_thousands(bytes));
}

std::string text_of(const Transfers& transfers) {
    const std::string calls = fmt::format("{} call{}", transfers.calls, transfers.calls == 1 ? "" : "s");
    const bool in_micro_batch = transfers.phase == Phase::forward || transfers.phase == Phase::backward;
    if (!in_micro_batch) return calls;
    return fmt::format("{} in each of {} micro-batch{}", calls, transfers.runs, transfers.runs == 1 ? "" : "es");
}

// The exchanges of one kind on an axis, joined.
struct AxisSums {
    Collective collective;
    std::size_t buckets = 0;
    std::size_t tensors = 0;
    std::size_t first = 0; // starts after so many calls of the backward phase
    std::int64_t bytes_sent = 0;
};

std::vector<AxisSums> sums_over(int axis, const Program& program) {
    std::vector<AxisSums> found;
    for (const Exchange& exchange : program.plan.exchanges) { // in the order in which they start
        if (exchange.axis != axis) continue;
        auto one = std::ranges::find(found, exchange.collective, &AxisSums::collective);
        if (one == found.end())
            one = found.insert(one, AxisSums{.collective = exchange.collective, .first = exchange.after});
        ++one->buckets;
        one->tensors += exchange.values.size();
        one->bytes_sent += bytes_sent(exchange, program.plan, program.layout);
    }
    return found;
}

std::string text_of(const AxisSums& sums, const Plan& plan) {
    const std::string tensors = fmt::format("{} sum{}", sums.tensors, sums.tensors == 1 ? "" : "s");
    if (sums.buckets == 1) return tensors;
    return fmt::format("{} in {} buckets, from {} % of backward", tensors, sums.buckets,
                       sums.first * 100 / plan.calls(Phase::backward).size());
}

void collectives_over(int axis, const Program& program, Lines out) {
    constexpr std::array names = {"prepare", "forward", "backward", "update"};
    const auto transfers_in = [&](bool update) {
        for (const Transfers& transfers : transfers_of(program.plan, program.layout))
            if (transfers.axis == axis && (transfers.phase == Phase::update) == update)
                line_of_collectives(names[static_cast<std::size_t>(transfers.phase)], transfers.collective,
                                    text_of(transfers), transfers.bytes_sent, out);
    };
    transfers_in(false);
    for (const AxisSums& sums : sums_over(axis, program))
        line_of_collectives("gradients", sums.collective, text_of(sums, program.plan), sums.bytes_sent, out);
    transfers_in(true);
}

void collectives(const Program& program, const Stream& stream, Lines out) {
    const Mesh& mesh = program.layout.mesh;
    fmt::format_to(out, "\nCollectives of a step, bytes that each rank sends\n");
    if (mesh.shared_axes() == 0) fmt::format_to(out, "  none: one rank\n");
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        if (mesh.axis(axis).size == 1) continue;
        fmt::format_to(out, "  over '{}' ({} ranks), {}\n", mesh.axis(axis).name, mesh.axis(axis).size,
                       way_of(program, stream));
        collectives_over(axis, program, out);
        fmt::format_to(out, "    {:<71}  {:>17}\n", "in all",
                       with_thousands(bytes_sent_over(axis, program.plan, program.layout)));
    }
}

// "layers 0 to 3" of the nodes that the rank runs in a chunk.
std::string layers_of(const Part& part, const Plan& plan) {
    int first = -1, last = -1;
    for (std::int64_t i = part.calls.begin; i < part.calls.end; ++i) {
        const Call& call = plan.calls(part.phase)[static_cast<std::size_t>(i)];
        const int layer = plan.graph.nodes()[static_cast<std::size_t>(call.node)].layer;
        if (layer < 0) continue;
        first = first < 0 ? layer : first;
        last = layer;
    }
    if (first < 0) return "no layer";
    return first == last ? fmt::format("layer {}", first) : fmt::format("layers {} to {}", first, last);
}

void pipeline(const Program& program, Lines out) {
    const Plan& plan = program.plan;
    const Layout& layout = program.layout;
    if (layout.stages() == 1) return;
    fmt::format_to(out, "\nPipeline: {} stages, {}\n", layout.stages(), name_of(layout.schedule));
    std::vector<double> work(static_cast<std::size_t>(layout.stages()));
    for (std::size_t chunk = 0; chunk < plan.chunk_flops.size(); ++chunk) {
        const ChunkTime& time = plan.chunk_flops[chunk];
        work[chunk % work.size()] += time.forward + time.backward + time.weights;
    }
    const double all = std::accumulate(work.begin(), work.end(), 0.0);
    const auto [least, most] = std::ranges::minmax(work);
    fmt::format_to(out, "  this stage: ");
    for (const Part& part : plan.parts)
        if (part.work == Work::forward) fmt::format_to(out, "{}{}", part.chunk == 0 ? "" : ", ", layers_of(part, plan));
    int kept = 0;
    for (const Frames& frames : plan.frames)
        kept = std::max(kept, frames.count);
    fmt::format_to(out, "; keeps up to {} micro-batch{} of a chunk\n", kept, kept == 1 ? "" : "es");
    fmt::format_to(out, "  work of a stage: {:.1f} to {:.1f} % of the whole\n", 100 * least / all, 100 * most / all);
    fmt::format_to(out, "  bubble: {:.1f} % of the stages' time, by counted operations\n", 100 * bubble(plan, layout));
}

void memory(const Experiment& experiment, Lines out) {
    fmt::format_to(out, "\nMemory of a rank, bytes\n{}", memory_table(experiment.memory));
}

// Axes that share out what a micro-batch computes.
std::vector<std::string> axes_within_micro_batches(const Layout& layout) {
    std::vector<std::string> names;
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (!layout.shares_micro_batches(axis) && axis != layout.pipeline_axis && layout.mesh.axis(axis).size > 1)
            names.push_back(fmt::format("{} {}", layout.mesh.axis(axis).name, layout.mesh.axis(axis).size));
    return names;
}

void promise(const Experiment& experiment, Lines out) {
    const Program& program = experiment.train;
    fmt::format_to(out, "\nThe same bits\n");
    if (!program.layout.reproducible) {
        fmt::format_to(out, "  not promised: run.reproducible = false\n");
        return;
    }
    const std::vector<std::string> within = axes_within_micro_batches(program.layout);
    fmt::format_to(out,
                   "  losses and weights do not depend on the number of {}ranks (up to {}), of threads, or on\n"
                   "  stops and resumes, on one kind of processor",
                   within.empty() && program.layout.stages() == 1 ? "" : "data ", experiment.batch.micro_batches);
    if (!experiment.batch.fixed_micro_batch)
        fmt::format_to(out, "; but the micro-batch size follows from the number of ranks\n"
                            "  here: say training.local_batch_size to have them on any number of ranks");
    if (!within.empty())
        fmt::format_to(out,
                       "\n  {}: every run of this layout has the same bits; one without shares its products and sums\n"
                       "  otherwise, and is equal within rounding",
                       fmt::join(within, ", "));
    fmt::format_to(out, "\n  cost: {} gradient sum{} of {} bytes at once instead of {}\n", program.plan.slots,
                   program.plan.slots == 1 ? "" : "s", with_thousands(program.plan.slot_bytes),
                   std::min(program.plan.slots, 2));
}

} // namespace

std::string describe_plan(const Experiment& experiment, const RankView& view, const Stream& stream) {
    const Program& program = experiment.train;
    std::string text;
    const Lines out(text);
    fmt::format_to(out, "Mesh: {} ({} ranks), rank {} shown, {} each\n", program.layout.mesh.text(), view.ranks,
                   view.rank, std::visit([](const auto& s) { return s.text(); }, stream));
    const ShareSizes sizes = share_sizes(program.layout);
    fmt::format_to(out, "Batch: {}\n", experiment.batch.text(sizes.least, sizes.most));
    if (experiment.ramp.grows()) fmt::format_to(out, "It grows: {}\n", experiment.ramp.text());
    fmt::format_to(out, "Work: {:.4g} GFLOP per step of {} {}s\n",
                   program.plan.flops_per_micro_batch * static_cast<double>(experiment.batch.micro_batches) / 1e9,
                   with_thousands(experiment.sizes.units_per_step), experiment.sizes.sample.unit);
    parameters(program, out);
    pipeline(program, out);
    collectives(program, stream, out);
    memory(experiment, out);
    promise(experiment, out);
    return text;
}

} // namespace tessera
