// SPDX-License-Identifier: Apache-2.0
// The pure arithmetic of the floor: meshes, placements, the summation tree and redistribution.
#include "kernels/error.hpp"
#include "parallel/layout/mesh.hpp"
#include "parallel/layout/placement.hpp"
#include "parallel/layout/redistribute.hpp"
#include "parallel/layout/summation_tree.hpp"

#include <algorithm>
#include <bit>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <numeric>
#include <set>

#include <rapidcheck/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

Mesh any_mesh() {
    std::vector<MeshAxis> axes;
    const int count = *rc::gen::inRange(0, 4);
    for (int i = 0; i < count; ++i)
        axes.push_back({std::string(1, static_cast<char>('a' + i)), *rc::gen::inRange(1, 5)});
    return Mesh(axes);
}

// Sum of the leaves [begin, begin + count) by the definition of the tree, written without the class under test.
float tree_sum(const std::vector<float>& leaves, std::size_t begin, std::size_t count) {
    if (count == 1) return leaves[begin];
    std::size_t left = 1;
    while (left * 2 < count)
        left *= 2;
    return tree_sum(leaves, begin, left) + tree_sum(leaves, begin + left, count - left);
}

std::vector<float> any_leaves(std::size_t count) {
    std::vector<float> leaves;
    for (std::size_t i = 0; i < count; ++i)
        leaves.push_back(
            std::ldexp(static_cast<float>(*rc::gen::inRange(-1'000'000, 1'000'000)), *rc::gen::inRange(-8, 8)));
    return leaves;
}

} // namespace

TEST(Mesh, NumbersRanksRowMajor) {
    const Mesh mesh({{"data", 2}, {"tensor", 3}});
    EXPECT_EQ(mesh.size(), 6);
    EXPECT_EQ(mesh.coordinate(4), (std::vector<int>{1, 1}));
    EXPECT_EQ(mesh.rank({1, 1}), 4);
    EXPECT_EQ(mesh.group(4, 0), (std::vector<int>{1, 4}));
    EXPECT_EQ(mesh.group(4, 1), (std::vector<int>{3, 4, 5}));
    EXPECT_EQ(mesh.axis_named("tensor"), 1);
    EXPECT_EQ(mesh.text(), "data 2 x tensor 3");
    EXPECT_EQ(Mesh({}).size(), 1);
}

TEST(Mesh, RefusesWhatIsNoMesh) {
    EXPECT_THAT([] { Mesh({{"data", 0}}); }, ThrowsMessage<ConfigError>(HasSubstr("'data' has size 0")));
    EXPECT_THAT([] { Mesh({{"data", 2}, {"data", 2}}); }, ThrowsMessage<ConfigError>(HasSubstr("two axes")));
    EXPECT_THAT([] { Mesh({{"", 2}}); }, ThrowsMessage<ConfigError>(HasSubstr("no name")));
    EXPECT_THAT([] { Mesh({{"a", 1 << 20}, {"b", 1 << 20}}); }, ThrowsMessage<ConfigError>(HasSubstr("1099511627776")));
    EXPECT_THAT(
        [] {
            Mesh({{"data", 2}}).axis_named("dota");
        },
        ThrowsMessage<ConfigError>(HasSubstr("did you mean 'data'")));
    EXPECT_THROW(Mesh({{"data", 2}}).coordinate(2), InternalError);
    EXPECT_THROW(Mesh({{"data", 2}}).rank({2}), InternalError);
    EXPECT_THROW(Mesh({{"data", 2}}).rank({0, 0}), InternalError);
}

RC_GTEST_PROP(Mesh, CoordinatesAndGroupsAreConsistent, ()) {
    const Mesh mesh = any_mesh();
    for (int rank = 0; rank < mesh.size(); ++rank) {
        const std::vector<int> place = mesh.coordinate(rank);
        RC_ASSERT(mesh.rank(place) == rank);
        for (int axis = 0; axis < mesh.axis_count(); ++axis) {
            const std::vector<int> group = mesh.group(rank, axis);
            RC_ASSERT(static_cast<int>(group.size()) == mesh.axis(axis).size);
            for (std::size_t i = 0; i < group.size(); ++i) {
                std::vector<int> expected = place;
                expected[static_cast<std::size_t>(axis)] = static_cast<int>(i);
                RC_ASSERT(mesh.coordinate(group[i]) == expected);
            }
        }
    }
}

RC_GTEST_PROP(Placement, ShardsAreNeighboursAndTheFirstAreLarger, ()) {
    const std::int64_t size = *rc::gen::inRange<std::int64_t>(0, 60'000);
    const int parts = *rc::gen::inRange(1, 300);
    std::int64_t end = 0;
    for (int index = 0; index < parts; ++index) {
        const Range range = shard_range(size, parts, index);
        RC_ASSERT(range.begin == end);
        RC_ASSERT(range.size() == size / parts + (index < size % parts ? 1 : 0));
        end = range.end;
    }
    RC_ASSERT(end == size);
}

TEST(Placement, CutsVocabularyUnevenly) {
    EXPECT_EQ(shard_range(50257, 8, 0), (Range{0, 6283}));
    EXPECT_EQ(shard_range(50257, 8, 1), (Range{6283, 12565}));
    EXPECT_EQ(shard_range(50257, 8, 7), (Range{43975, 50257}));
    EXPECT_EQ(shard_range(1, 3, 2).size(), 0);
    EXPECT_THROW(shard_range(8, 2, 2), InternalError);
}

RC_GTEST_PROP(Placement, EveryElementIsHeldOncePerReplica, ()) {
    const Mesh mesh = any_mesh();
    Shape whole;
    const int dims = *rc::gen::inRange(1, 4);
    for (int dim = 0; dim < dims; ++dim)
        whole.append(*rc::gen::inRange(0, 8));
    Placements placements;
    int holders = 1; // ranks that hold each element
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        const int kind = *rc::gen::inRange(0, 4);
        placements.push_back(kind == 0   ? Placement::replicate()
                             : kind == 1 ? Placement::partial()
                             : kind == 2 ? Placement::shard(*rc::gen::inRange(0, dims))
                                         : Placement::at(*rc::gen::inRange(0, mesh.axis(axis).size)));
        if (kind < 2) holders *= mesh.axis(axis).size;
    }
    std::vector<int> seen(static_cast<std::size_t>(whole.count()));
    for (int rank = 0; rank < mesh.size(); ++rank) {
        const Box box = local_box(whole, placements, mesh, mesh.coordinate(rank));
        for (std::int64_t i = 0; i < whole.count(); ++i) {
            bool inside = box.held;
            std::int64_t rest = i;
            for (int dim = dims - 1; dim >= 0; --dim) {
                const Range range = box.ranges[static_cast<std::size_t>(dim)];
                const std::int64_t index = rest % whole[dim];
                inside = inside && index >= range.begin && index < range.end;
                rest /= whole[dim];
            }
            seen[static_cast<std::size_t>(i)] += inside ? 1 : 0;
        }
    }
    RC_ASSERT(seen == std::vector<int>(seen.size(), holders));
}

TEST(Placement, TwoAxesOnOneDimShardOuterToInner) {
    const Mesh mesh({{"data", 2}, {"tensor", 2}});
    const Placements placements = {Placement::shard(0), Placement::shard(0)};
    std::vector<std::int64_t> begins;
    for (int rank = 0; rank < 4; ++rank)
        begins.push_back(local_box(Shape{10, 3}, placements, mesh, mesh.coordinate(rank)).ranges[0].begin);
    EXPECT_EQ(begins, (std::vector<std::int64_t>{0, 3, 5, 8}));
}

TEST(Placement, RefusesDimsAndStagesThatDoNotExist) {
    const Mesh mesh({{"data", 2}});
    EXPECT_THROW(local_box(Shape{4}, {Placement::shard(1)}, mesh, {0}), InternalError);
    EXPECT_THROW(local_box(Shape{4}, {Placement::at(2)}, mesh, {0}), InternalError);
    EXPECT_THROW(local_box(Shape{4}, {}, mesh, {0}), InternalError);
    EXPECT_EQ(Placement::shard(3).text(), "Shard(3)");
    const Box scalar = local_box(Shape{}, {Placement::at(1)}, mesh, {0});
    EXPECT_FALSE(scalar.held);
    EXPECT_EQ(scalar.count(), 0);
}

TEST(SummationTree, SharesAreWholeSubtrees) {
    const auto sizes = [](std::int64_t leaves, int ranks) {
        const SummationTree tree(leaves, ranks);
        std::vector<std::int64_t> result;
        for (int rank = 0; rank < ranks; ++rank)
            result.push_back(tree.share(rank).size());
        return result;
    };
    EXPECT_EQ(sizes(8, 4), (std::vector<std::int64_t>{2, 2, 2, 2}));
    EXPECT_EQ(sizes(8, 6), (std::vector<std::int64_t>{1, 1, 1, 1, 2, 2}));
    EXPECT_EQ(sizes(8, 3), (std::vector<std::int64_t>{2, 2, 4}));
    EXPECT_EQ(sizes(5, 2), (std::vector<std::int64_t>{4, 1}));
    EXPECT_TRUE(SummationTree(8, 4).even());
    EXPECT_FALSE(SummationTree(8, 3).even());
    using Merges = std::vector<SummationTree::Merge>;
    EXPECT_EQ(SummationTree(8, 3).merges(), (Merges{{0, 1}, {0, 2}}));
    EXPECT_EQ(SummationTree(8, 4).merges(), (Merges{{0, 1}, {2, 3}, {0, 2}}));
    EXPECT_THAT([] { SummationTree(4, 6); },
                ThrowsMessage<ConfigError>(testing::AllOf(HasSubstr("4 micro-batches"), HasSubstr("6 ranks"))));
}

RC_GTEST_PROP(SummationTree, AnyRankCountGivesTheOneRankBits, ()) {
    const int count = *rc::gen::inRange(1, 70);
    const SummationTree tree(count, *rc::gen::inRange(1, count + 1));
    const std::vector<float> leaves = any_leaves(static_cast<std::size_t>(count));
    const float expected = tree_sum(leaves, 0, leaves.size());

    std::vector<float> partial;
    std::int64_t end = 0;
    for (int rank = 0; rank < tree.ranks(); ++rank) {
        const Range share = tree.share(rank);
        RC_ASSERT(share.begin == end);
        RC_ASSERT(share.size() > 0);
        end = share.end;
        // As a rank sums: one leaf after another into the slots of a binary counter.
        std::vector<std::pair<float, std::int64_t>> slots;
        std::size_t most = 0;
        for (std::int64_t leaf = share.begin; leaf < share.end; ++leaf) {
            slots.emplace_back(leaves[static_cast<std::size_t>(leaf)], 1);
            most = std::max(most, slots.size());
            while (slots.size() > 1 &&
                   (slots[slots.size() - 2].second == slots.back().second || leaf + 1 == share.end)) {
                const auto [right, right_size] = slots.back();
                slots.pop_back();
                slots.back() = {slots.back().first + right, slots.back().second + right_size};
            }
        }
        RC_ASSERT(static_cast<int>(most) <= slots_needed(share.size()));
        partial.push_back(slots[0].first);
    }
    RC_ASSERT(end == count);

    std::vector<float> stack; // merges_after, before merges writes to the partial sums
    for (std::size_t rank = 0; rank < partial.size(); ++rank) {
        stack.push_back(partial[rank]);
        for (int i = 0; i < tree.merges_after()[rank]; ++i) {
            const float right = stack.back();
            stack.pop_back();
            stack.back() += right;
        }
    }
    RC_ASSERT(stack.size() == 1u);
    for (const SummationTree::Merge& merge : tree.merges())
        partial[static_cast<std::size_t>(merge.into)] += partial[static_cast<std::size_t>(merge.from)];
    RC_ASSERT(std::bit_cast<std::uint32_t>(partial[0]) == std::bit_cast<std::uint32_t>(expected));
    RC_ASSERT(std::bit_cast<std::uint32_t>(stack[0]) == std::bit_cast<std::uint32_t>(expected));
}

RC_GTEST_PROP(SummationTree, PowersOfTwoShareWithinAFactorOfTwo, ()) {
    const int bits = *rc::gen::inRange(0, 10);
    const int ranks = *rc::gen::inRange(1, (1 << bits) + 1);
    const SummationTree tree(1 << bits, ranks);
    std::int64_t smallest = tree.leaves(), largest = 0;
    for (int rank = 0; rank < ranks; ++rank) {
        smallest = std::min(smallest, tree.share(rank).size());
        largest = std::max(largest, tree.share(rank).size());
    }
    RC_ASSERT(largest <= 2 * smallest);
    RC_ASSERT(tree.even() == std::has_single_bit(static_cast<unsigned>(ranks)));
}

// No other way of dealing whole subtrees has a smaller largest share: with that bound on shares, cutting the tree gives
// at least this many ranks work; with a smaller bound, it would need more ranks.
RC_GTEST_PROP(SummationTree, TheLargestShareIsTheSmallestPossible, ()) {
    const int leaves = *rc::gen::inRange(1, 200);
    const int ranks = *rc::gen::inRange(1, leaves + 1);
    const SummationTree tree(leaves, ranks);
    std::int64_t largest = 0;
    for (int rank = 0; rank < ranks; ++rank)
        largest = std::max(largest, tree.share(rank).size());
    const std::function<int(std::int64_t, std::int64_t)> pieces = [&](std::int64_t count, std::int64_t bound) -> int {
        if (count <= bound) return 1;
        std::int64_t left = 1;
        while (left * 2 < count)
            left *= 2;
        return pieces(left, bound) + pieces(count - left, bound);
    };
    if (largest > 1) RC_ASSERT(pieces(leaves, largest - 1) > ranks);
}

TEST(Redistribute, EachPairHasItsCollective) {
    const Placement replicate = Placement::replicate(), partial = Placement::partial(), shard = Placement::shard(0);
    EXPECT_EQ(redistribution(partial, replicate), Collective::all_reduce);
    EXPECT_EQ(redistribution(partial, shard), Collective::reduce_scatter);
    EXPECT_EQ(redistribution(shard, replicate), Collective::all_gather);
    EXPECT_EQ(redistribution(shard, Placement::shard(1)), Collective::all_to_all);
    EXPECT_EQ(redistribution(replicate, shard), Collective::slice);
    EXPECT_EQ(redistribution(Placement::at(0), replicate), Collective::broadcast);
    EXPECT_EQ(redistribution(replicate, Placement::at(0)), Collective::none);
    for (const Placement same : {replicate, partial, shard, Placement::at(1)})
        EXPECT_EQ(redistribution(same, same), Collective::none);
    EXPECT_THAT([&] { redistribution(replicate, partial); },
                ThrowsMessage<InternalError>(HasSubstr("from Replicate to Partial")));
    EXPECT_THROW(redistribution(Placement::at(0), Placement::at(1)), InternalError);
    EXPECT_THROW(redistribution(shard, partial), InternalError);
}

// What a collective leaves on each of R ranks follows from the placements; the bytes that a rank lacks must be sent.
TEST(Redistribute, TrafficIsWhatEachRankLacks) {
    for (const int ranks : {1, 2, 3, 8}) {
        const std::int64_t part = 4800, whole = part * ranks;
        EXPECT_EQ(bytes_sent(Collective::all_gather, whole, ranks), whole - part);
        EXPECT_EQ(bytes_sent(Collective::reduce_scatter, whole, ranks), whole - part);
        EXPECT_EQ(bytes_sent(Collective::all_reduce, whole, ranks), 2 * (whole - part));
        EXPECT_EQ(bytes_sent(Collective::all_to_all, whole, ranks), part - part / ranks);
        EXPECT_EQ(bytes_sent(Collective::broadcast, whole, ranks) * ranks, whole * (ranks - 1));
        EXPECT_EQ(bytes_sent(Collective::slice, whole, ranks), 0);
    }
}

TEST(Placement, FlatCutsWhatOtherAxesLeaveIntoRunsOfWholeBlocks) {
    const Mesh mesh({{"data", 3}, {"tensor", 2}});
    const Shape whole{6, 5, 700}; // 10,500 elements on each rank of 'tensor': 3 blocks
    const Placements placements{Placement::flat(), Placement::shard(0)};
    std::int64_t end = 0;
    for (int rank = 0; rank < 3; ++rank) {
        const Box box = local_box(whole, placements, mesh, {rank, 1});
        EXPECT_EQ(box.ranges, (std::vector<Range>{{3, 6}, {0, 5}, {0, 700}}));
        const Range run = run_of(box, placements, mesh, {rank, 1});
        EXPECT_EQ(run.begin, end);
        EXPECT_EQ(run.begin % flat_block, 0);
        end = run.end;
    }
    EXPECT_EQ(end, 10500);
    const Box box = local_box(whole, {Placement::replicate(), Placement::shard(0)}, mesh, {1, 0});
    EXPECT_EQ(run_of(box, {Placement::replicate(), Placement::shard(0)}, mesh, {1, 0}), (Range{0, 10500}));
    EXPECT_THROW(run_of(box, {Placement::flat(), Placement::flat()}, mesh, {1, 0}), InternalError);
}

// Element by element: boxes of a run hold its elements, in order, and nothing else.
TEST(Placement, ARunIsAFewBoxes) {
    const std::vector<Box> wholes = {
        {{{2, 5}, {0, 4}, {10, 13}}}, {{{7, 20}}}, {{}}, {{{0, 1}, {3, 8}}}, {{{1, 3}, {0, 2}, {4, 6}, {0, 3}}}};
    for (const Box& whole : wholes) {
        std::vector<std::vector<std::int64_t>> elements;
        const auto list = [](const Box& box, auto& into) {
            const Shape shape = box.shape();
            for (std::int64_t i = 0; i < shape.count(); ++i) {
                std::vector<std::int64_t> place(box.ranges.size());
                std::int64_t rest = i;
                for (int dim = shape.rank() - 1; dim >= 0; --dim) {
                    place[static_cast<std::size_t>(dim)] =
                        box.ranges[static_cast<std::size_t>(dim)].begin + rest % shape[dim];
                    rest /= shape[dim];
                }
                into.push_back(place);
            }
        };
        list(whole, elements);
        const auto count = static_cast<std::int64_t>(elements.size());
        for (std::int64_t begin = 0; begin <= count; ++begin)
            for (std::int64_t end = begin; end <= count; ++end) {
                const std::vector<Box> boxes = boxes_of_run(whole, {begin, end});
                std::vector<std::vector<std::int64_t>> found;
                for (const Box& box : boxes)
                    list(box, found);
                EXPECT_EQ(found, (std::vector(elements.begin() + begin, elements.begin() + end)));
                EXPECT_LE(boxes.size(), std::max<std::size_t>(1, 2 * whole.ranges.size() - 1));
            }
    }
}
