// SPDX-License-Identifier: Apache-2.0
// Counts what the plan's calls and exchanges move.
#include "core/plan/traffic.hpp"

#include <algorithm>
#include <array>

namespace tessera {
namespace {

constexpr std::array phases = {Phase::prepare, Phase::forward, Phase::backward, Phase::update};

std::int64_t runs_of(Phase phase, const Plan& plan) {
    const bool of_micro_batches = phase == Phase::forward || phase == Phase::backward;
    return of_micro_batches ? plan.share.size() + plan.idle_rounds : 1;
}

Transfers& entry(std::vector<Transfers>& found, Phase phase, Op::Transfer transfer, const Plan& plan) {
    const auto same = std::ranges::find_if(found, [&](const Transfers& one) {
        return one.phase == phase && one.axis == transfer.axis && one.collective == transfer.collective;
    });
    if (same != found.end()) return *same;
    return found.emplace_back(Transfers{phase, transfer.axis, transfer.collective, 0, runs_of(phase, plan), 0});
}

std::vector<TensorType> local_types(const Node& node, const Plan& plan) {
    std::vector<TensorType> types;
    for (const ValueId input : node.inputs)
        types.push_back(plan.value(input).local);
    return types;
}

std::int64_t whole_bytes(const Node& node, const Op::Transfer& transfer, const Plan& plan, const Layout& layout) {
    const std::int64_t before = plan.value(node.inputs[0]).local.bytes();
    if (transfer.collective == Collective::all_gather) return plan.value(node.outputs[0]).local.bytes();
    const int ranks = layout.mesh.axis(transfer.axis).size;
    if (transfer.collective == Collective::ring) return node.op->travelling_bytes(local_types(node, plan)) * ranks;
    return transfer.collective == Collective::all_to_all ? before * ranks : before;
}

} // namespace

std::vector<Moved> moved_by(const Node& node, const Plan& plan, const Layout& layout,
                            const std::vector<int>& coordinate) {
    const std::optional<Op::Transfer> transfer = node.op->transfer();
    if (!transfer || transfer->collective == Collective::slice) return {};
    if (transfer->collective != Collective::halo) return {{*transfer, whole_bytes(node, *transfer, plan, layout)}};
    std::vector<Moved> moved;
    for (const Op::Sent& sent : node.op->halos(local_types(node, plan), coordinate))
        moved.push_back({{sent.axis, Collective::halo}, sent.bytes});
    return moved;
}

std::vector<Transfers> transfers_of(const Plan& plan, const Layout& layout) {
    std::vector<Transfers> found;
    for (const Phase phase : phases)
        for (const Call& call : plan.calls(phase)) {
            const Node& node = plan.graph.nodes()[static_cast<std::size_t>(call.node)];
            for (const auto& [transfer, bytes] : moved_by(node, plan, layout, plan.coordinate)) {
                if (bytes == 0) continue; // between other stages, or no row is asked of this rank
                Transfers& one = entry(found, phase, transfer, plan);
                ++one.calls;
                one.bytes_sent +=
                    one.runs * bytes_sent(transfer.collective, bytes, layout.mesh.axis(transfer.axis).size);
            }
        }
    for (const Part& part : plan.parts)
        for (const StageMessage& message : part.sends) {
            Transfers& one = entry(found, part.phase, {layout.pipeline_axis, Collective::send}, plan);
            ++one.calls;
            one.bytes_sent += one.runs * plan.value(message.value).local.bytes();
        }
    std::ranges::stable_sort(found, {}, &Transfers::axis);
    return found;
}

// Sums are scattered one by one, all others are reduced as neighbours.
std::int64_t bytes_sent(const Exchange& exchange, const Plan& plan, const Layout& layout) {
    const int ranks = layout.mesh.axis(exchange.axis).size;
    std::int64_t total = 0;
    if (exchange.collective != Collective::reduce_scatter) {
        for (const SlotPiece& piece : pieces_of(exchange, plan))
            total += bytes_sent(exchange.collective, piece.bytes, ranks);
        return total;
    }
    for (const ValueId id : exchange.values)
        total += bytes_sent(exchange.collective, plan.value(id).local.bytes(), ranks);
    return total;
}

std::int64_t bytes_sent_over(int axis, const Plan& plan, const Layout& layout) {
    std::int64_t total = 0;
    for (const Transfers& transfers : transfers_of(plan, layout))
        if (transfers.axis == axis) total += transfers.bytes_sent;
    for (const Exchange& exchange : plan.exchanges)
        if (exchange.axis == axis) total += bytes_sent(exchange, plan, layout);
    return total;
}

} // namespace tessera
