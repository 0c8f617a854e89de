// SPDX-License-Identifier: Apache-2.0
// The formulas.
#include "core/cost/collective_cost.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

void check_known(const AxisPlace& place, const Machine& machine) {
    if (place.per_node > 1 && !machine.within_node.known())
        throw ConfigError(fmt::format("{} says nothing of the links between the ranks of a node (node.alpha, "
                                      "node.beta)",
                                      machine.file));
    if (!place.on_one_node() && !machine.between_nodes.known())
        throw ConfigError(fmt::format("{} says nothing of the links between nodes (network.alpha, network.beta), of "
                                      "which each has {}",
                                      machine.file, machine.ranks_per_node));
}

// Each rank sends a part of the whole to every other one; those on other nodes are reached by its own share of the
// network.
double all_to_all_seconds(double whole_bytes, const AxisPlace& place, const Machine& machine) {
    const double part = whole_bytes / place.ranks / place.ranks;
    const int near = place.per_node - 1;
    const int far = place.ranks - place.per_node;
    double seconds = 0;
    if (near > 0) seconds += near * (machine.within_node.all_to_all.alpha + part / machine.within_node.all_to_all.beta);
    if (far > 0)
        seconds += far * (machine.between_nodes.all_to_all.alpha + part / machine.between_nodes.all_to_all.beta);
    return seconds;
}

// What one rank of a ring sends per second, and what a step of it takes.
Link link_of_ring(Collective collective, const AxisPlace& place, const Machine& machine) {
    const Link& near = machine.within_node.of(collective);
    if (place.on_one_node()) return near;
    const Link& far = machine.between_nodes.of(collective);
    if (place.per_node == 1) return far;
    return {std::max(near.alpha, far.alpha), std::min(near.beta, place.per_node * far.beta)};
}

// To the neighbours on both sides. Where the ranks lie on several nodes, those at a node's edge are awaited.
double halo_seconds(std::int64_t sent_bytes, const AxisPlace& place, const Machine& machine) {
    const Link& link = place.on_one_node() ? machine.within_node.send : machine.between_nodes.send;
    return std::min(2, place.ranks - 1) * link.alpha + static_cast<double>(sent_bytes) / link.beta;
}

} // namespace

AxisPlace place_of(const Mesh& mesh, int axis, int rank, int ranks_per_node) {
    const std::vector<int> group = mesh.group(rank, axis); // in rising order
    AxisPlace place{static_cast<int>(group.size()), 1};
    int here = 0, node = -1;
    for (const int other : group) {
        here = other / ranks_per_node == node ? here + 1 : 1;
        node = other / ranks_per_node;
        place.per_node = std::max(place.per_node, here);
    }
    return place;
}

double seconds_of(Collective collective, std::int64_t whole_bytes, const AxisPlace& place, const Machine& machine) {
    if (place.ranks == 1 || collective == Collective::none || collective == Collective::slice) return 0;
    check_known(place, machine);
    if (collective == Collective::send) return seconds_of_send(whole_bytes, place, machine);
    if (collective == Collective::halo) return halo_seconds(whole_bytes, place, machine);
    if (collective == Collective::all_to_all)
        return all_to_all_seconds(static_cast<double>(whole_bytes), place, machine);
    const Link link = link_of_ring(collective, place, machine);
    const int rounds = collective == Collective::all_reduce ? 2 : 1;
    return rounds * (place.ranks - 1) * link.alpha +
           static_cast<double>(bytes_sent(collective, whole_bytes, place.ranks)) / link.beta;
}

double seconds_of_send(std::int64_t bytes, const AxisPlace& place, const Machine& machine) {
    if (place.ranks == 1) return 0;
    check_known(place, machine);
    const Link& link = place.per_node > 1 ? machine.within_node.send : machine.between_nodes.send;
    return link.alpha + static_cast<double>(bytes) / link.beta;
}

} // namespace tessera
