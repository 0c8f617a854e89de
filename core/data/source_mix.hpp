// SPDX-License-Identifier: Apache-2.0
// Which source each sample comes from: a pure function of its running index, without a table and without chance.
//
// Sources are the leaves of a Huffman tree of their weights (Huffman 1952). Of the first n samples that reach a node of
// the weights a and b, a's side gets n * a / (a + b), rounded to the nearest: the places at which this grows are a
// Beatty sequence (Beatty 1926; Bresenham's line). So counts are at most 1/2 off at each node, of which a source hands
// on its share; in a Huffman tree a node that is no leaf has at most 2/3 of its parent, so that of any first samples a
// source's number differs from its share by less than 1/2 * (1 + 1 + 2/3 + 4/9 + …) = 2, however many sources there are
// and however long it goes on. The best possible is just below 1 (Tijdeman 1980, "The chairman assignment problem"),
// but by a rule that has to walk through all samples before; drawing by chance would be off by the square root of n.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tessera {

class SourceMix {
public:
    // Weights of 1 to 2^62 all together, one for each source. Throws InternalError for others.
    explicit SourceMix(std::vector<std::int64_t> weights);

    // Sample `index` of all is sample `number` of this source. index >= 0. Takes the depth of the tree.
    struct Place {
        std::size_t source = 0;
        std::int64_t number = 0;
        bool operator==(const Place&) const = default;
    };
    Place place(std::int64_t index) const;

    // How many of the first `samples` each source has.
    std::vector<std::int64_t> counts(std::int64_t samples) const;

private:
    struct Node {
        std::int64_t weight;
        std::size_t left, right; // nodes; of a leaf both are itself
    };
    std::int64_t count_left(const Node& node, std::int64_t samples) const;

    std::vector<Node> nodes_; // the sources, then what joins them; the last is the root
};

// Shares as whole numbers, which add up to about 2^40. ConfigError for one that is not above 0, not finite, or smaller
// than 2^-40 of all; `number` in its message counts from 1.
std::vector<std::int64_t> whole_weights(std::span<const double> weights);

} // namespace tessera
