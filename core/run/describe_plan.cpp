// SPDX-License-Identifier: Apache-2.0
// The text of a plan, section by section.
#include "core/run/describe_plan.hpp"

#include "core/run/fit.hpp"
#include "core/with_thousands.hpp"

#include <algorithm>
#include <fmt/format.h>

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
    fmt::format_to(out, "\nParameters {}, placement of weight, gradient and optimizer state by mesh axis\n",
                   with_thousands(parameter_count(graph)));
    for (const ValueId id : ids) {
        Placements gradient;
        for (std::size_t i = 0; i < graph.values().size(); ++i)
            if (graph.values()[i].gradient_of == id) gradient = program.plan.values[i].placements;
        Placements state = program.plan.value(id).placements;
        for (const ValueId other : graph.of_kind(ValueKind::optimizer_state))
            if (graph.value(other).name.ends_with("/" + graph.value(id).name))
                state = program.plan.value(other).placements;
        fmt::format_to(out, "  {:<{}}  {:<18}  {} {} {}\n", graph.value(id).name, width,
                       graph.value(id).shape_outside().text(), text_of(program.plan.value(id).placements),
                       text_of(gradient), text_of(state));
    }
}

void collectives(const Program& program, const Stream& stream, Lines out) {
    fmt::format_to(out, "\nCollectives of a step\n");
    std::int64_t total = 0;
    const std::string_view way = !std::holds_alternative<CpuStream>(stream) ? "by NCCL"
                                 : program.layout.one_host                  ? "in shared memory"
                                                                            : "by messages";
    const std::size_t calls = program.plan.calls(Phase::backward).size();
    for (const Exchange& exchange : program.plan.exchanges) {
        const MeshAxis& axis = program.layout.mesh.axis(exchange.axis);
        const std::int64_t sent = bytes_sent(exchange.collective, exchange.bytes, axis.size);
        total += sent;
        fmt::format_to(out, "  {} over '{}' ({} ranks) of {} tensors, {} bytes: each rank sends {} bytes, {}{}\n",
                       name_of(exchange.collective), axis.name, axis.size, exchange.values.size(),
                       with_thousands(exchange.bytes), with_thousands(sent), way,
                       exchange.after < calls
                           ? fmt::format(", after {} % of the backward pass", exchange.after * 100 / calls)
                           : std::string());
    }
    fmt::format_to(out, "  in all, each rank sends {} bytes per step\n", with_thousands(total));
}

void memory(const Experiment& experiment, Lines out) {
    fmt::format_to(out, "\nMemory of a rank, bytes\n{}", memory_table(experiment.memory));
}

void promise(const Experiment& experiment, Lines out) {
    const Program& program = experiment.train;
    fmt::format_to(out, "\nThe same bits\n");
    if (!program.layout.reproducible) {
        fmt::format_to(out, "  not promised: run.reproducible = false\n");
        return;
    }
    fmt::format_to(out,
                   "  losses and weights do not depend on the number of ranks (up to {}), of threads, or on\n"
                   "  stops and resumes, on one kind of processor",
                   experiment.batch.micro_batches);
    if (!experiment.batch.fixed_micro_batch)
        fmt::format_to(out, "; but the micro-batch size follows from the number of ranks\n"
                            "  here: say training.local_batch_size to have them on any number of ranks");
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
    fmt::format_to(out, "Batch: {}\n", experiment.batch.text(view.ranks));
    fmt::format_to(out, "Work: {:.4g} GFLOP per step of {} tokens\n",
                   program.plan.flops_per_micro_batch * static_cast<double>(experiment.batch.micro_batches) / 1e9,
                   with_thousands(experiment.batch.global * experiment.sizes.sequence_length));
    parameters(program, out);
    collectives(program, stream, out);
    memory(experiment, out);
    promise(experiment, out);
    return text;
}

} // namespace tessera
