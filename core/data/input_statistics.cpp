// SPDX-License-Identifier: Apache-2.0
#include "core/data/input_statistics.hpp"

#include "core/data/data_error.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fmt/format.h>

namespace tessera {

std::int64_t statistics_width(const Shape& sample) { return sample.rank() == 3 ? sample[2] : sample.count(); }

Normaliser::Normaliser(InputStatistics statistics, const Shape& sample, const std::string& name)
    : statistics_(std::move(statistics)) {
    const auto found = static_cast<std::int64_t>(statistics_.means.size());
    if (found != 1 && found != statistics_width(sample) && found != sample.count())
        throw DataError(fmt::format("{}: {} means and deviations, but samples are {}", name, found, sample.text()));
    for (const double deviation : statistics_.deviations)
        factors_.push_back(deviation > 0 ? 1 / deviation : 0);
}

void Spread::add(std::span<const double> row) {
    const double part = 1 / ++count;
    for (std::size_t i = 0; i < row.size(); ++i) {
        const double distance = row[i] - means[i];
        means[i] += distance * part;
        squares[i] += distance * (row[i] - means[i]);
    }
}

void Spread::merge(const Spread& later) {
    if (later.count == 0) return;
    if (count == 0) {
        *this = later;
        return;
    }
    const double all = count + later.count;
    for (std::size_t i = 0; i < means.size(); ++i) {
        const double distance = later.means[i] - means[i];
        means[i] += distance * (later.count / all);
        squares[i] += later.squares[i] + distance * distance * (count * later.count / all);
    }
    count = all;
}

InputStatistics Spread::statistics() const {
    InputStatistics found{means, squares};
    for (double& deviation : found.deviations)
        deviation = std::sqrt(deviation / count);
    return found;
}

void add_node(std::vector<SpreadNode>& nodes, SpreadNode node) {
    while (!nodes.empty() && nodes.back().level == node.level && node.place % 2 == 1 &&
           nodes.back().place == node.place - 1) {
        SpreadNode both = std::move(nodes.back());
        nodes.pop_back();
        both.spread.merge(node.spread);
        node = {both.level + 1, both.place / 2, std::move(both.spread)};
    }
    nodes.push_back(std::move(node));
}

std::string nodes_as_bytes(const std::vector<SpreadNode>& nodes) {
    std::vector<double> numbers;
    for (const SpreadNode& node : nodes) {
        numbers.insert(numbers.end(),
                       {static_cast<double>(node.level), static_cast<double>(node.place), node.spread.count});
        numbers.insert(numbers.end(), node.spread.means.begin(), node.spread.means.end());
        numbers.insert(numbers.end(), node.spread.squares.begin(), node.spread.squares.end());
    }
    return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(double)};
}

void add_nodes_of_bytes(const std::string& bytes, std::size_t width, std::vector<SpreadNode>& nodes) {
    const std::size_t each = (3 + 2 * width) * sizeof(double);
    for (std::size_t at = 0; at < bytes.size(); at += each) {
        std::vector<double> numbers(3 + 2 * width);
        std::memcpy(numbers.data(), bytes.data() + at, each);
        SpreadNode node{static_cast<std::int64_t>(numbers[0]), static_cast<std::int64_t>(numbers[1]), Spread(width)};
        node.spread.count = numbers[2];
        std::copy_n(numbers.begin() + 3, width, node.spread.means.begin());
        std::copy_n(numbers.begin() + 3 + static_cast<std::ptrdiff_t>(width), width, node.spread.squares.begin());
        add_node(nodes, std::move(node));
    }
}

} // namespace tessera
