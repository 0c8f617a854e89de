// SPDX-License-Identifier: Apache-2.0
// A walk from the root of the tree to a leaf, in whole numbers.
#include "core/data/source_mix.hpp"

#include "kernels/error.hpp"

#include <cmath>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t most_weight = std::int64_t{1} << 62;

} // namespace

SourceMix::SourceMix(std::vector<std::int64_t> weights) {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] < 1 || weights[i] > most_weight - sum)
            throw InternalError(fmt::format("source mix: weight {} of number {}", weights[i], i));
        sum += weights[i];
        nodes_.push_back({weights[i], i, i});
    }
    if (weights.empty()) throw InternalError("source mix: no source");
    // The two lightest become one, until one is left. There are few: looking through all is fast enough.
    std::vector<std::size_t> roots;
    for (std::size_t i = 0; i < weights.size(); ++i)
        roots.push_back(i);
    const auto take_lightest = [&] {
        std::size_t at = 0;
        for (std::size_t i = 1; i < roots.size(); ++i)
            if (nodes_[roots[i]].weight < nodes_[roots[at]].weight) at = i;
        const std::size_t node = roots[at];
        roots.erase(roots.begin() + static_cast<std::ptrdiff_t>(at));
        return node;
    };
    while (roots.size() > 1) {
        const std::size_t light = take_lightest(), heavier = take_lightest();
        roots.push_back(nodes_.size());
        nodes_.push_back({nodes_[light].weight + nodes_[heavier].weight, heavier, light});
    }
}

// samples * left / (left + right), rounded to the nearest.
std::int64_t SourceMix::count_left(const Node& node, std::int64_t samples) const {
    const auto all = static_cast<unsigned __int128>(node.weight);
    const auto left = static_cast<unsigned __int128>(nodes_[node.left].weight);
    return static_cast<std::int64_t>((2 * static_cast<unsigned __int128>(samples) * left + all) / (2 * all));
}

SourceMix::Place SourceMix::place(std::int64_t index) const {
    if (index < 0) throw InternalError(fmt::format("source mix: sample {}", index));
    std::size_t at = nodes_.size() - 1;
    while (nodes_[at].left != at) {
        const Node& node = nodes_[at];
        const std::int64_t before = count_left(node, index);
        const bool left = count_left(node, index + 1) > before;
        index = left ? before : index - before;
        at = left ? node.left : node.right;
    }
    return {at, index};
}

std::vector<std::int64_t> SourceMix::counts(std::int64_t samples) const {
    std::vector<std::int64_t> of_nodes(nodes_.size());
    of_nodes.back() = samples;
    for (std::size_t at = nodes_.size(); at-- > 0;) { // what joins comes after what it joins
        const Node& node = nodes_[at];
        if (node.left == at) continue;
        of_nodes[node.left] = count_left(node, of_nodes[at]);
        of_nodes[node.right] = of_nodes[at] - of_nodes[node.left];
    }
    std::size_t sources = 0;
    while (sources < nodes_.size() && nodes_[sources].left == sources)
        ++sources;
    of_nodes.resize(sources);
    return of_nodes;
}

std::vector<std::int64_t> whole_weights(std::span<const double> weights) {
    double sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (!(weights[i] > 0 && std::isfinite(weights[i])))
            throw ConfigError(
                fmt::format("the weight of source {} is {}, expected a number above 0", i + 1, weights[i]));
        sum += weights[i];
    }
    std::vector<std::int64_t> whole;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        whole.push_back(std::llround(weights[i] / sum * 0x1p40));
        if (whole.back() < 1)
            throw ConfigError(
                fmt::format("the weight of source {} is {}, too little beside {} of all", i + 1, weights[i], sum));
    }
    return whole;
}

} // namespace tessera
