// SPDX-License-Identifier: Apache-2.0
// Every way from one placement to another, on thread ranks: what each rank ends up with is its part of the whole.
#include "core/plan/redistribute.hpp"
#include "core/plan/traffic.hpp"
#include "kernels/error.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/communication/local.hpp"
#include "tests/core/sharded_run.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

// What each rank holds, or must hold, of `whole`.
Samples parts_of(const Sample& whole, Placement placement, int ranks) {
    std::mt19937 generator(3);
    if (placement != Placement::flat()) return split(whole, placement, ranks, generator);
    Samples parts;
    const std::int64_t count = whole.count();
    for (int rank = 0; rank < ranks; ++rank) {
        const Range run = shard_range_in_units(count, flat_block, ranks, rank);
        parts.emplace_back(Shape{run.size()}, whole.dtype());
        for (std::int64_t i = 0; i < run.size(); ++i)
            parts.back().set(i, whole[run.begin + i]);
    }
    return parts;
}

// Whole numbers, whose sums are exact in any order.
Sample whole_numbers(const Shape& shape, DType dtype) {
    Sample sample(shape, dtype);
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, static_cast<double>(i * 7919 % 101 - 50));
    return sample;
}

// Summands that are whole numbers, too.
Samples summands_of(const Sample& whole, int ranks) {
    Samples parts;
    for (int rank = 0; rank < ranks; ++rank) {
        parts.emplace_back(whole);
        for (std::int64_t i = 0; i < whole.count(); ++i)
            parts.back().set(i, rank == 0 ? whole[i] - (ranks - 1) * static_cast<double>(i % 5)
                                          : static_cast<double>(i % 5));
    }
    return parts;
}

Samples run_on_ranks(const Redistribute& op, const Samples& inputs, const Samples& like) {
    Samples outputs;
    for (const Sample& sample : like) {
        outputs.emplace_back(sample.view().shape, sample.dtype());
        fill_with_nan(outputs.back().view());
    }
    run_as_threads(static_cast<int>(inputs.size()), [&](Communicator& communicator) {
        Stream stream = CpuStream(1);
        Groups groups(Mesh({{"data", 1}, {"tensor", communicator.size()}}), communicator);
        const auto rank = static_cast<std::size_t>(communicator.rank());
        const View in = inputs[rank].view(), out = outputs[rank].view();
        const TensorType in_type{in.shape, in.dtype}, out_type{out.shape, out.dtype};
        const Sample workspace({(op.workspace_bytes(stream, {&in_type, 1}, {&out_type, 1}) + 3) / 4}, DType::f32);
        fill_with_nan(workspace.view());
        op.run(stream, {{&in, 1}, {&out, 1}, workspace.view(), nullptr, &groups});
    });
    return outputs;
}

// As parts_of, the parts that are cut being zig-zag: by plain counting.
Samples zigzag_parts_of(const Sample& whole, Placement placement, int ranks) {
    std::mt19937 generator(3);
    if (placement.kind != Placement::Kind::shard) return split(whole, placement, ranks, generator);
    Samples parts;
    const Shape& shape = whole.view().shape;
    const std::int64_t size = shape[placement.value], chunk = size / (2 * ranks);
    const std::int64_t inner = shape.count(placement.value + 1, shape.rank());
    for (int rank = 0; rank < ranks; ++rank) {
        Shape part = shape;
        part.set(placement.value, 2 * chunk);
        parts.emplace_back(part, whole.dtype());
        for (std::int64_t i = 0, next = 0; i < whole.count(); ++i) {
            const std::int64_t of = i / inner % size / chunk;
            if (of == rank || of == 2 * ranks - 1 - rank) parts.back().set(next++, whole[i]);
        }
    }
    return parts;
}

void expect_led(const Shape& shape, DType dtype, Placement from, Placement to, int ranks) {
    SCOPED_TRACE(fmt::format("{} {}, {} to {}, {} ranks", name_of(dtype), shape.text(), from.text(), to.text(), ranks));
    const Sample whole = whole_numbers(shape, dtype);
    const Samples inputs = from == Placement::partial() ? summands_of(whole, ranks) : parts_of(whole, from, ranks);
    const Samples expected = parts_of(whole, to, ranks);
    const Redistribute op(1, ranks, from, to);
    EXPECT_EQ(op.transfer()->collective, redistribution(from, to));
    EXPECT_EQ(op.transfer()->axis, 1);
    const Samples found = run_on_ranks(op, inputs, expected);
    for (std::size_t rank = 0; rank < found.size(); ++rank)
        EXPECT_TRUE(found[rank].same_bits(expected[rank])) << "rank " << rank;
}

// Dims that 2, 3 and 4 ranks share out unevenly, one that leaves ranks without a part, and one of a single place.
const std::vector<Shape> shapes = {{7}, {5, 9}, {1, 3, 17}, {6, 2, 5, 3}};

} // namespace

class RedistributeOn : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, RedistributeOn, testing::Values(1, 2, 3, 4));

TEST_P(RedistributeOn, SumsGathersScattersAndSlices) {
    const Placement whole = Placement::replicate(), partial = Placement::partial();
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape& shape : shapes) {
            expect_led(shape, dtype, partial, whole, GetParam());
            for (int dim = 0; dim < shape.rank(); ++dim) {
                expect_led(shape, dtype, partial, Placement::shard(dim), GetParam());
                expect_led(shape, dtype, Placement::shard(dim), whole, GetParam());
                expect_led(shape, dtype, whole, Placement::shard(dim), GetParam());
            }
        }
}

TEST_P(RedistributeOn, ExchangesOneCutForAnother) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape& shape : {Shape{12, 24}, Shape{12, 5, 24}, Shape{3, 12, 12, 2}})
            for (int from = 0; from < shape.rank(); ++from)
                for (int to = 0; to < shape.rank(); ++to)
                    if (from != to && shape[from] % GetParam() == 0 && shape[to] % GetParam() == 0)
                        expect_led(shape, dtype, Placement::shard(from), Placement::shard(to), GetParam());
}

// What is gathered is in order again, and what is summed goes to whom it belongs.
TEST_P(RedistributeOn, ZigzagShards) {
    const Placement whole = Placement::replicate(), partial = Placement::partial();
    for (const DType dtype : {DType::f32, DType::i32, DType::bf16})
        for (const Shape& shape : {Shape{24}, Shape{24, 5}, Shape{3, 24, 2}})
            for (int dim = 0; dim < shape.rank(); ++dim) {
                if (shape[dim] != 24) continue;
                const Sample x = whole_numbers(shape, dtype);
                for (const auto& [from, to] :
                     {std::pair{whole, Placement::shard(dim)}, std::pair{Placement::shard(dim), whole},
                      std::pair{partial, Placement::shard(dim)}}) {
                    SCOPED_TRACE(fmt::format("{} {}, {} to {}", name_of(dtype), shape.text(), from.text(), to.text()));
                    const Samples inputs =
                        from == partial ? summands_of(x, GetParam()) : zigzag_parts_of(x, from, GetParam());
                    const Samples expected = zigzag_parts_of(x, to, GetParam());
                    const Samples found = run_on_ranks(Redistribute(1, GetParam(), from, to, true), inputs, expected);
                    for (std::size_t rank = 0; rank < found.size(); ++rank)
                        EXPECT_TRUE(found[rank].same_bits(expected[rank])) << "rank " << rank;
                }
            }
}

// Runs of whole blocks; the last rank's block is not full, and small tensors are on the first rank alone.
TEST_P(RedistributeOn, RunsOfBlocks) {
    const Placement whole = Placement::replicate(), flat = Placement::flat();
    for (const Shape& shape : {Shape{3, 5}, Shape{70, 61, 3}}) {
        expect_led(shape, DType::f32, Placement::partial(), flat, GetParam());
        expect_led(shape, DType::bf16, flat, whole, GetParam());
        expect_led(shape, DType::f32, whole, flat, GetParam());
    }
}

TEST_P(RedistributeOn, ASumMayBeTakenWhereItLies) {
    const Sample whole = whole_numbers({5, 9}, DType::f32);
    const Samples parts = summands_of(whole, GetParam());
    const Redistribute op(1, GetParam(), Placement::partial(), Placement::replicate());
    EXPECT_EQ(op.in_place_input(), 0);
    run_as_threads(GetParam(), [&](Communicator& communicator) {
        Stream stream = CpuStream(1);
        Groups groups(Mesh({{"data", 1}, {"tensor", communicator.size()}}), communicator);
        const View view = parts[static_cast<std::size_t>(communicator.rank())].view();
        op.run(stream, {{&view, 1}, {&view, 1}, View(), nullptr, &groups});
    });
    for (const Sample& part : parts)
        EXPECT_TRUE(part.same_bits(whole));
}

TEST(Redistribute, OnlySumsAreTakenInPlace) {
    const Placement cut = Placement::shard(0), whole = Placement::replicate();
    EXPECT_EQ(Redistribute(0, 2, cut, whole).in_place_input(), -1);
    EXPECT_EQ(Redistribute(0, 2, Placement::partial(), cut).in_place_input(), -1);
}

TEST(Redistribute, RefusesWhatNoCollectiveDoes) {
    EXPECT_THAT([] { Redistribute(0, 2, Placement::replicate(), Placement::partial()); },
                ThrowsMessage<InternalError>("no single collective leads from Replicate to Partial"));
    EXPECT_THAT([] { Redistribute(0, 2, Placement::shard(0), Placement::shard(1), true); },
                ThrowsMessage<InternalError>(HasSubstr("has no order")));
    const Sample whole = whole_numbers({5, 4}, DType::f32);
    const Samples inputs = parts_of(whole, Placement::shard(0), 2), like = parts_of(whole, Placement::shard(1), 2);
    EXPECT_THAT([&] { run_on_ranks(Redistribute(1, 2, Placement::shard(0), Placement::shard(1)), inputs, like); },
                ThrowsMessage<InternalError>(HasSubstr("uneven parts")));
}
