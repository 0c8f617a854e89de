// SPDX-License-Identifier: Apache-2.0
// Ring attention on thread ranks against the plain loops in double, what it sends, and training steps of a GPT whose
// sequence is cut zig-zag against one rank.
#include "core/ops/ring_attention.hpp"
#include "core/ops/ops.hpp"
#include "kernels/draw.hpp"
#include "parallel/layout/zigzag.hpp"
#include "tests/core/sharded_run.hpp"
#include "tests/core/training_record.hpp"
#include "tests/kernels/attention_plain.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

// The elements of a rank's zig-zag shard along a dim, in its order.
std::vector<std::int64_t> places_of(const Shape& whole, int dim, int ranks, int rank) {
    std::vector<std::int64_t> found;
    const std::int64_t inner = whole.count(dim + 1, whole.rank());
    for (std::int64_t outer = 0; outer < whole.count(0, dim); ++outer)
        for (const Range& chunk : zigzag_ranges(whole[dim], ranks, rank))
            for (std::int64_t i = chunk.begin * inner; i < chunk.end * inner; ++i)
                found.push_back(outer * whole[dim] * inner + i);
    return found;
}

Shape cut(Shape shape, int dim, int ranks) {
    shape.set(dim, shape[dim] / ranks);
    return shape;
}

Sample shard_of(const Sample& whole, int dim, int ranks, int rank) {
    Sample part(cut(whole.view().shape, dim, ranks), whole.dtype());
    const std::vector<std::int64_t> places = places_of(whole.view().shape, dim, ranks, rank);
    for (std::size_t i = 0; i < places.size(); ++i)
        part.set(static_cast<std::int64_t>(i), whole[places[i]]);
    return part;
}

// Into the whole, in double.
void join(const Sample& part, const Shape& whole, int dim, int ranks, int rank, Doubles& to) {
    to.resize(static_cast<std::size_t>(whole.count()), std::nan(""));
    const std::vector<std::int64_t> places = places_of(whole, dim, ranks, rank);
    for (std::size_t i = 0; i < places.size(); ++i)
        to[static_cast<std::size_t>(places[i])] = part[static_cast<std::int64_t>(i)];
}

struct Whole {
    AttentionSizes sizes;
    Sample qkv, dy;

    Whole(const AttentionSizes& of, DType dtype)
        : sizes(of), qkv(of.by_group ? Shape{of.batch, of.times, of.kv_heads(), of.group + 2, of.depth}
                                     : Shape{of.batch, of.times, 3, of.heads, of.depth},
                         dtype),
          dy(of.y(), dtype) {
        std::mt19937 generator(17);
        fill_randomly(qkv, generator);
        fill_randomly(dy, generator);
    }
};

// Of all ranks, put together; and what each of them sent forward and backward.
struct Found {
    Doubles y, log_sum_exp, dqkv;
    std::vector<std::int64_t> forward_sent, backward_sent, forward_planned, backward_planned;
};

void run(const Op& op, Groups& groups, const std::vector<View>& in, const std::vector<View>& out) {
    Stream stream = CpuStream(1);
    for (const View& view : out)
        fill_with_nan(view);
    const Sample workspace({(op.workspace_bytes(stream, types_of(in), types_of(out)) + 3) / 4}, DType::f32);
    fill_with_nan(workspace.view());
    op.run(stream, {in, out, workspace.view(), nullptr, &groups});
}

Found run_on_ranks(const Whole& whole, int ranks) {
    Found found;
    std::mutex mutex;
    for (std::vector<std::int64_t>* counts :
         {&found.forward_sent, &found.backward_sent, &found.forward_planned, &found.backward_planned})
        counts->resize(static_cast<std::size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& communicator) {
        Groups groups(Mesh({{"data", 1}, {"context", ranks}}), communicator);
        const int rank = communicator.rank();
        const auto index = static_cast<std::size_t>(rank);
        const Sample qkv = shard_of(whole.qkv, 1, ranks, rank), dy = shard_of(whole.dy, 1, ranks, rank);
        const Sample y(dy.view().shape, dy.dtype()), dqkv(qkv.view().shape, qkv.dtype());
        const Shape rows{whole.sizes.batch, whole.sizes.heads, whole.sizes.times};
        const Sample log_sum_exp(cut(rows, 2, ranks), DType::f32);
        const auto forward = make_ring_attention(1, ranks, whole.sizes.causal, whole.sizes.by_group);
        const auto backward = make_ring_attention_gradient(1, ranks, whole.sizes.causal, whole.sizes.by_group);
        run(*forward, groups, {qkv.view()}, {y.view(), log_sum_exp.view()});
        found.forward_sent[index] = communicator.bytes_sent();
        const std::vector<View> inputs{qkv.view(), y.view(), log_sum_exp.view(), dy.view()};
        run(*backward, groups, inputs, {dqkv.view()});
        found.backward_sent[index] = communicator.bytes_sent() - found.forward_sent[index];
        const std::vector<TensorType> types = types_of(inputs);
        found.forward_planned[index] = forward->travelling_bytes({types.data(), 1}) * (ranks - 1);
        found.backward_planned[index] = backward->travelling_bytes(types) * (ranks - 1);
        const std::lock_guard lock(mutex);
        join(y, whole.dy.view().shape, 1, ranks, rank, found.y);
        join(log_sum_exp, rows, 2, ranks, rank, found.log_sum_exp);
        join(dqkv, whole.qkv.view().shape, 1, ranks, rank, found.dqkv);
    });
    return found;
}

// The largest difference relative to the values' own size.
double error(const Doubles& found, const Doubles& expected) {
    double worst = 0, square = 0;
    for (const double value : expected)
        square += value * value;
    const double size = std::sqrt(square / static_cast<double>(expected.size()));
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double share = std::abs(found[i] - expected[i]) / (std::abs(expected[i]) + size);
        if (!(share <= worst)) worst = share; // NaN is the worst of all
    }
    return found.size() == expected.size() ? worst : std::nan("");
}

using Record = TrainingRecord;

std::vector<Record> train(std::vector<std::string> words, int ranks, bool poisoned = false) {
    words.insert(words.end(), {fmt::format("parallelism.context_parallel_degree={}", ranks),
                               "parallelism.context_parallel_method=ring", "training.seq_len=24"});
    return train_on(ranks, words, poisoned);
}

} // namespace

TEST(RingAttention, EqualsThePlainLoops) {
    for (const int ranks : {2, 3, 4})
        for (const bool causal : {true, false})
            for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
                for (const std::int64_t chunk : {1, 5, 34}) {
                    const bool by_group = chunk == 5;
                    const Whole whole({2, 2 * ranks * chunk, by_group ? 4 : 3, 12, causal, 1 / std::sqrt(12.0),
                                       by_group ? 2 : 1, by_group},
                                      dtype);
                    SCOPED_TRACE(fmt::format("{}, {}, {} ranks", whole.sizes.text(), name_of(dtype), ranks));
                    const Found found = run_on_ranks(whole, ranks);
                    const PlainAttention expected = plain_attention(whole.sizes, whole.qkv.values());
                    const Doubles gradient = plain_gradient(whole.sizes, whole.qkv.values(), whole.dy.values());
                    // As for attention itself (tests/kernels/attention.cpp): the rounding of a score is that of its
                    // sum.
                    const double score = 8 + expected.largest_score;
                    const double narrow = dtype == DType::bf16 ? 1 : dtype == DType::f16 ? 0.15 : 0;
                    EXPECT_LE(error(found.y, expected.y), 1e-6 * score + 1e-2 * narrow);
                    EXPECT_LE(error(found.log_sum_exp, expected.log_sum_exp), 1e-6 * score);
                    EXPECT_LE(error(found.dqkv, gradient), 2e-6 * score + 6e-2 * narrow);
                }
}

TEST(RingAttention, EachRankSendsItsKeysAndValuesToAllOthers) {
    for (const int ranks : {2, 3, 4})
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const Whole whole({1, 2 * ranks * 4, 2, 8, true, 1 / std::sqrt(8.0)}, dtype);
            const Found found = run_on_ranks(whole, ranks);
            const std::int64_t numbers = 2 * 8 * 2 * 8 * (ranks - 1); // of 8 tokens' keys and values, sent so often
            for (std::size_t rank = 0; rank < static_cast<std::size_t>(ranks); ++rank) {
                EXPECT_EQ(found.forward_sent[rank], numbers * bytes_of(dtype));
                EXPECT_EQ(found.backward_sent[rank], numbers * (bytes_of(dtype) + 4));
                EXPECT_EQ(found.forward_planned[rank], found.forward_sent[rank]);
                EXPECT_EQ(found.backward_planned[rank], found.backward_sent[rank]);
            }
        }
}

TEST(RingAttention, AttentionTakesTheRingWhereItsInputsAreCutAlongTheSequence) {
    const TensorType qkv{{2, 16, 3, 4, 8}, DType::f32};
    const std::vector<TensorType> types{qkv};
    const std::vector<Placement> sequence{Placement::shard(1)}, heads{Placement::shard(3)};
    const OpPointer op = make_attention(true);
    const auto ring = op->around_ring(1, 4, types, sequence);
    ASSERT_TRUE(ring);
    EXPECT_EQ(ring->op->name(), "ring_attention");
    EXPECT_EQ(ring->outputs, (std::vector<Placement>{Placement::shard(1), Placement::shard(2)}));
    EXPECT_EQ(ring->op->infer(types), op->infer(types));
    EXPECT_EQ(ring->op->flops(types, {}), op->flops(types, {}));
    EXPECT_FALSE(op->around_ring(1, 4, types, heads));
    EXPECT_FALSE(op->around_ring(1, 3, types, sequence)); // 6 chunks of 16 tokens
}

// A rank's part of the sequence drops what the whole drops there, also where an inner axis has cut the part again.
TEST(RingAttention, DropoutIsThatOfTheWhole) {
    constexpr int ranks = 3;
    const Shape shape{2, 6 * 5, 8};
    Sample x(shape, DType::f32);
    for (std::int64_t i = 0; i < x.count(); ++i)
        x.set(i, static_cast<double>(1 + i));
    const Sample draws({2, kernels::draw_words}, DType::i32), y(shape, DType::f32);
    for (std::int64_t row = 0; row < 2; ++row)
        kernels::write_draw(
            View(draws.view().as<std::int32_t>() + row * kernels::draw_words, {kernels::draw_words}, DType::i32), 3, 7,
            static_cast<std::uint64_t>(row));
    const OpPointer op = make_dropout(0.4, "here");
    run_op(*op, {x.view(), draws.view()}, {y.view()});
    for (int rank = 0; rank < ranks; ++rank) {
        const Sample part = shard_of(x, 1, ranks, rank), expected = shard_of(y, 1, ranks, rank);
        for (const Range inner : {Range{0, 10}, Range{0, 3}, Range{3, 7}, Range{7, 10}}) {
            Sample mine({2, inner.size(), 8}, DType::f32), out({2, inner.size(), 8}, DType::f32);
            Sample right(mine);
            for (std::int64_t i = 0; i < mine.count(); ++i) {
                const std::int64_t b = i / (inner.size() * 8),
                                   in_part = (b * 10 + inner.begin) * 8 + i % (inner.size() * 8);
                mine.set(i, part[in_part]);
                right.set(i, expected[in_part]);
            }
            const Range places{rank * 10 + inner.begin, rank * 10 + inner.end};
            const Locality locality{.wholes = {shape, draws.view().shape},
                                    .inputs = {Box{{{0, 2}, places, {0, 8}}}, Box{{{0, 2}, {0, kernels::draw_words}}}},
                                    .runs = {},
                                    .counts = {true, true},
                                    .zigzags = {{1, ranks}, {}}};
            Stream stream = CpuStream(1);
            run_op(*op, {mine.view(), draws.view()}, {out.view()}, stream, &locality);
            EXPECT_TRUE(out.same_bits(right)) << "rank " << rank << ", from " << inner.begin;
        }
    }
}

class RingTraining : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Variants, RingTraining,
                         testing::Values("plain", "bf16", "dropout", "bias", "all", "f16", "stochastic"),
                         [](const auto& variant) { return variant.param; });

// Two heads on three and four ranks: the ring shares out none.
TEST_P(RingTraining, TrainsAsOneRankDoes) {
    const Variant variant = variant_named(GetParam());
    const bool narrow = std::ranges::any_of(
        variant.overrides, [](const std::string& word) { return word.starts_with("training.dtype="); });
    const double allowed = tolerance(narrow ? DType::bf16 : DType::f32, Kind::training).relative;
    const Record one = train(variant.overrides, 1)[0];
    for (const int ranks : {2, 3, 4}) {
        SCOPED_TRACE(fmt::format("{} ranks", ranks));
        const std::vector<Record> records = train(variant.overrides, ranks);
        for (const Record& record : records)
            EXPECT_TRUE(record == records[0]); // each has all weights
        expect_near(records[0].losses, one.losses, allowed);
        expect_near(records[0].norms, one.norms, 10 * allowed);
    }
}

TEST_P(RingTraining, ReadsNothingThatWasNotWritten) {
    const Variant variant = variant_named(GetParam());
    EXPECT_TRUE(train(variant.overrides, 2, true) == train(variant.overrides, 2));
}
