// SPDX-License-Identifier: Apache-2.0
// The arithmetic of ranks, threads, cores and NUMA nodes.
#include "launcher/job/binding.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <set>

namespace tessera {
namespace {

using CoresByNode = std::map<int, std::vector<int>>; // those that are free

CoresByNode cores_by_node(const HostShape& host) {
    CoresByNode result;
    for (const HostShape::Core& core : host.cores)
        result[core.node].push_back(core.number);
    return result;
}

std::size_t free_cores(const CoresByNode& nodes) {
    std::size_t count = 0;
    for (const auto& [node, cores] : nodes)
        count += cores.size();
    return count;
}

void take(std::size_t count, int node, CoresByNode& free, RankBinding& place) {
    std::vector<int>& cores = free[node];
    count = std::min(count, cores.size());
    if (count == 0) return;
    place.nodes.push_back(node);
    place.cores.insert(place.cores.end(), cores.begin(), cores.begin() + static_cast<std::ptrdiff_t>(count));
    cores.erase(cores.begin(), cores.begin() + static_cast<std::ptrdiff_t>(count));
}

// The wanted node, or the first after it that has room; -1 when none has.
int node_with_room(std::size_t threads, int wanted, const CoresByNode& free) {
    std::vector<int> order;
    for (const auto& [node, cores] : free)
        order.push_back(node);
    std::rotate(order.begin(), std::find(order.begin(), order.end(), wanted), order.end());
    for (const int node : order)
        if (free.at(node).size() >= threads) return node;
    return -1;
}

// "0-3,8"
std::string ranges(const std::vector<int>& numbers) {
    std::string text;
    for (std::size_t begin = 0, end = 0; begin < numbers.size(); begin = end) {
        for (end = begin + 1; end < numbers.size() && numbers[end] == numbers[end - 1] + 1;)
            ++end;
        text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[begin]);
        if (end > begin + 1) text += fmt::format("-{}", numbers[end - 1]);
    }
    return text;
}

} // namespace

std::int64_t threads_that_fit(std::int64_t ranks, const HostShape& host) {
    const CoresByNode nodes = cores_by_node(host);
    const auto cores = static_cast<std::int64_t>(host.cores.size());
    std::int64_t threads = std::max<std::int64_t>(cores / ranks, 1);
    if (ranks < static_cast<std::int64_t>(nodes.size())) return threads;
    for (; threads > 1; --threads) {
        std::int64_t room = 0;
        for (const auto& [node, own] : nodes)
            room += static_cast<std::int64_t>(own.size()) / threads;
        if (room >= ranks) break;
    }
    return threads;
}

bool cores_suffice(std::int64_t ranks, std::int64_t threads, const HostShape& host) {
    return threads <= static_cast<std::int64_t>(host.cores.size()) / ranks; // ranks * threads, without overflow
}

std::vector<RankBinding> place_ranks(std::int64_t ranks, std::int64_t threads, const HostShape& host) {
    std::vector<RankBinding> places(static_cast<std::size_t>(ranks));
    const bool with_gpus = host.gpus.size() >= places.size();
    for (std::size_t rank = 0; with_gpus && rank < places.size(); ++rank)
        places[rank].gpu = static_cast<int>(rank);
    if (!cores_suffice(ranks, threads, host)) return places;

    CoresByNode free = cores_by_node(host);
    std::vector<int> nodes;
    for (const auto& [node, cores] : free)
        nodes.push_back(node);
    const auto count = static_cast<std::size_t>(threads);
    for (std::size_t rank = 0; rank < places.size(); ++rank) {
        int wanted = nodes[rank * nodes.size() / places.size()];
        if (with_gpus && free.contains(host.gpus[rank].node)) wanted = host.gpus[rank].node;
        const int node = node_with_room(count, wanted, free);
        if (node >= 0) {
            take(count, node, free, places[rank]);
            continue;
        }
        while (places[rank].cores.size() < count && free_cores(free) > 0) { // across nodes, the emptiest last
            const auto fullest = std::max_element(free.begin(), free.end(), [](const auto& a, const auto& b) {
                return a.second.size() < b.second.size();
            });
            take(count - places[rank].cores.size(), fullest->first, free, places[rank]);
        }
        std::sort(places[rank].cores.begin(), places[rank].cores.end());
        std::sort(places[rank].nodes.begin(), places[rank].nodes.end());
    }
    return places;
}

std::string text_of(const RankBinding& place, const HostShape& host) {
    std::string text = "any core";
    if (!place.cores.empty())
        text = fmt::format("{} {} of NUMA node{} {}", place.cores.size() == 1 ? "core" : "cores", ranges(place.cores),
                           place.nodes.size() == 1 ? "" : "s", fmt::join(place.nodes, " and "));
    if (place.gpu < 0) return text;
    const HostShape::Gpu& gpu = host.gpus[static_cast<std::size_t>(place.gpu)];
    text += fmt::format(", GPU {} ({}", place.gpu, gpu.address);
    if (gpu.node >= 0) text += fmt::format(" near NUMA node {}", gpu.node);
    return text + ")";
}

} // namespace tessera
