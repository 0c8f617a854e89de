// SPDX-License-Identifier: Apache-2.0
// Sharded = whole, for one op: runs it once on whole tensors and once per rank on what a placement rule gives the rank.
#pragma once

#include "parallel/layout/placement.hpp"
#include "tests/core/graph_run.hpp"

#include <cmath>

namespace tessera {

// Calls visit(place in the whole tensor, place in the box) for each element of the box, by plain counting.
inline void for_each_element(const Shape& whole, const Box& box,
                             const std::function<void(std::int64_t, std::int64_t)>& visit) {
    const Shape shape = box.shape();
    for (std::int64_t i = 0; i < shape.count(); ++i) {
        std::int64_t place = 0, scale = 1, rest = i;
        for (int dim = whole.rank() - 1; dim >= 0; --dim) {
            place += (box.ranges[static_cast<std::size_t>(dim)].begin + rest % shape[dim]) * scale;
            rest /= shape[dim];
            scale *= whole[dim];
        }
        visit(place, i);
    }
}

inline Box box_of(const Shape& whole, Placement placement, int ranks, int rank) {
    return local_box(whole, {placement}, Mesh({{"ranks", ranks}}), {rank});
}

// What each rank holds of `whole`; of a partial tensor, summands that add up to it.
inline Samples split(const Sample& whole, Placement placement, int ranks, std::mt19937& generator) {
    Samples parts;
    const Shape& shape = whole.view().shape;
    for (int rank = 0; rank < ranks; ++rank) {
        const Box box = box_of(shape, placement, ranks, rank);
        parts.emplace_back(box.shape(), whole.dtype());
        Sample& part = parts.back();
        for_each_element(shape, box, [&](std::int64_t place, std::int64_t i) { part.set(i, whole[place]); });
        if (placement != Placement::partial()) continue;
        if (rank + 1 < ranks) {
            fill_randomly(part, generator);
        } else {
            for (std::int64_t i = 0; i < part.count(); ++i)
                for (int other = 0; other < rank; ++other)
                    part.set(i, part[i] - parts[static_cast<std::size_t>(other)][i]);
        }
    }
    return parts;
}

inline double largest(const Sample& sample) {
    double most = 0;
    for (std::int64_t i = 0; i < sample.count(); ++i)
        most = std::max(most, std::abs(sample[i]));
    return most;
}

// Whether the ranks' parts make up `whole` as `placement` says, up to roundings in `dtype`.
inline void expect_joined(const Samples& parts, Placement placement, const Sample& whole, DType dtype) {
    const Tolerance allowed = tolerance(dtype, Kind::sharded);
    const Shape& shape = whole.view().shape;
    double magnitude = largest(whole);
    if (placement == Placement::partial()) {
        for (const Sample& part : parts)
            magnitude = std::max(magnitude, largest(part));
        Sample sum(shape, DType::f32);
        for (std::int64_t i = 0; i < whole.count(); ++i) {
            double total = 0;
            for (const Sample& part : parts)
                total += part[i];
            sum.set(i, total);
        }
        EXPECT_TRUE(close_to(sum, whole.values(), allowed,
                             std::vector<double>(static_cast<std::size_t>(whole.count()), magnitude)));
        return;
    }
    for (std::size_t rank = 0; rank < parts.size(); ++rank) {
        const Box box = box_of(shape, placement, static_cast<int>(parts.size()), static_cast<int>(rank));
        std::vector<double> expected(static_cast<std::size_t>(box.count()));
        for_each_element(shape, box, [&](std::int64_t place, std::int64_t i) {
            expected[static_cast<std::size_t>(i)] = whole[place];
        });
        EXPECT_TRUE(close_to(parts[rank], expected, allowed, std::vector<double>(expected.size(), magnitude)))
            << "rank " << rank;
        if (placement == Placement::replicate()) {
            EXPECT_TRUE(parts[rank].same_bits(parts[0])) << "rank " << rank;
        }
    }
}

// As the plan says it: of the ranks that hold the same summand of output 0, the first counts it.
inline Locality locality_of_rank(const Samples& inputs, const PlacementRule& rule, int ranks, int rank) {
    Locality locality;
    const bool sums = !rule.outputs.empty() && rule.outputs[0] == Placement::partial();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        locality.wholes.push_back(inputs[i].view().shape);
        locality.inputs.push_back(box_of(inputs[i].view().shape, rule.inputs[i], ranks, rank));
        locality.runs.push_back({0, locality.inputs.back().count()});
        locality.counts.push_back(!sums || rule.inputs[i] != Placement::replicate() || rank == 0);
    }
    return locality;
}

// One rule on that many ranks. Inputs that the op writes to are compared like outputs.
inline void expect_sharded_is_whole(const Op& op, const Samples& inputs, const std::vector<TensorType>& outputs,
                                    const PlacementRule& rule, int ranks) {
    ASSERT_EQ(rule.inputs.size(), inputs.size());
    ASSERT_EQ(rule.outputs.size(), outputs.size());
    std::mt19937 generator(7);
    std::vector<Samples> of_rank(static_cast<std::size_t>(ranks)); // inputs, then outputs
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        const Samples parts = split(inputs[i], rule.inputs[i], ranks, generator);
        for (std::size_t rank = 0; rank < of_rank.size(); ++rank)
            of_rank[rank].push_back(parts[rank]);
    }
    const auto run = [&](Samples& samples, const std::vector<TensorType>& types, const Locality* locality) {
        for (const TensorType& type : types) {
            samples.emplace_back(type.shape, type.dtype);
            fill_with_nan(samples.back().view());
        }
        const std::vector<View> views = views_of(samples);
        const auto middle = views.begin() + static_cast<std::ptrdiff_t>(inputs.size());
        Stream stream = CpuStream(1);
        run_op(op, {views.begin(), middle}, {middle, views.end()}, stream, locality);
    };
    Samples whole = inputs;
    run(whole, outputs, nullptr);
    for (int rank = 0; rank < ranks; ++rank) {
        std::vector<TensorType> types;
        for (std::size_t i = 0; i < outputs.size(); ++i)
            types.push_back({box_of(outputs[i].shape, rule.outputs[i], ranks, rank).shape(), outputs[i].dtype});
        const Locality locality = locality_of_rank(inputs, rule, ranks, rank);
        run(of_rank[static_cast<std::size_t>(rank)], types, &locality);
    }
    const auto compare = [&](std::size_t position, Placement placement) {
        Samples parts;
        for (const Samples& samples : of_rank)
            parts.push_back(samples[position]);
        DType dtype = whole[position].dtype();
        for (std::size_t i = 0; i < inputs.size(); ++i) // summands that were rounded when they were made
            if (rule.inputs[i] == Placement::partial() && dtype == DType::f32) dtype = inputs[i].dtype();
        expect_joined(parts, placement, whole[position], dtype);
    };
    for (std::size_t i = 0; i < outputs.size(); ++i)
        compare(inputs.size() + i, rule.outputs[i]);
    for (const int input : op.writes())
        compare(static_cast<std::size_t>(input), rule.inputs[static_cast<std::size_t>(input)]);
}

} // namespace tessera
