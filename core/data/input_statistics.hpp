// SPDX-License-Identifier: Apache-2.0
// Mean and standard deviation of what a model looks at: how inputs are normalised by them, and how many ranks find them
// with the same bits as one.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tessera {

// One for all elements of a sample, one for each channel of an image (H, W, C), or one for each element: element i has
// number i % means.size().
struct InputStatistics {
    std::vector<double> means, deviations; // of one size; a deviation of 0: what never varies, and becomes 0

    bool operator==(const InputStatistics&) const = default;
};

// Inputs as they are.
inline InputStatistics no_change() { return {{0}, {1}}; }

// How many numbers are told apart where statistics are found once and stored: channels of images, else all elements.
std::int64_t statistics_width(const Shape& sample);

// Takes the mean off, and divides by the standard deviation.
class Normaliser {
public:
    Normaliser() = default;
    // Throws DataError when so many statistics fit no sample of this shape; `name` stands for them in the message.
    Normaliser(InputStatistics statistics, const Shape& sample, const std::string& name);

    const InputStatistics& statistics() const { return statistics_; }
    std::span<const double> factors() const { return factors_; }
    float black(std::int64_t channel) const { return of(0.0, static_cast<std::size_t>(channel) % factors_.size()); }

    // to: (…) f32   values: as many; may be what `to` holds.
    template <class T> void apply(const T* values, const View& to) const {
        auto* result = to.as<float>();
        const std::size_t count = static_cast<std::size_t>(to.count()), width = factors_.size();
        if (width == 1) { // as images mostly are: a loop that a compiler makes vectors of
            const double mean = statistics_.means[0], factor = factors_[0];
            for (std::size_t i = 0; i < count; ++i)
                result[i] = static_cast<float>((static_cast<double>(values[i]) - mean) * factor);
            return;
        }
        for (std::size_t row = 0; row < count; row += width)
            for (std::size_t i = 0; i < width; ++i)
                result[row + i] = of(static_cast<double>(values[row + i]), i);
    }

private:
    float of(double value, std::size_t i) const {
        return static_cast<float>((value - statistics_.means[i]) * factors_[i]);
    }

    InputStatistics statistics_;
    std::vector<double> factors_;
};

// Of some rows of `means.size()` numbers: how many there were, their means, and the sums of the squares of their
// distances to these.
struct Spread {
    explicit Spread(std::size_t width = 0) : means(width), squares(width) {}

    double count = 0;
    std::vector<double> means, squares;

    void add(std::span<const double> row); // Welford 1962
    void merge(const Spread& later);       // Chan, Golub and LeVeque 1979
    InputStatistics statistics() const;    // of at least one row; the deviation is that of the whole, divided by count
};

// Samples are cut into so many blocks, whatever the number of ranks, and blocks are merged in a binary tree: each rank
// finds the nodes that its blocks make up, and whoever puts all together ends with the same bits.
inline constexpr std::int64_t statistics_blocks = 256;

struct SpreadNode {
    std::int64_t level = 0, place = 0; // of 2^level blocks, from place * 2^level on
    Spread spread;
};
// Merges with the node before it as long as these two are halves of one. Nodes come in the order of their blocks.
void add_node(std::vector<SpreadNode>& nodes, SpreadNode node);

std::string nodes_as_bytes(const std::vector<SpreadNode>& nodes);
void add_nodes_of_bytes(const std::string& bytes, std::size_t width, std::vector<SpreadNode>& nodes);

} // namespace tessera
