// SPDX-License-Identifier: Apache-2.0
// ZeRO beyond one group of ranks: replicas of what is shared out continue the tree of the micro-batches and exchange no
// more than a rank holds; weights are gathered ahead of their layer, and no earlier than asked.
#include "core/plan/shares.hpp"
#include "core/plan/traffic.hpp"
#include "core/run/turns.hpp"
#include "kernels/error.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

using Words = std::vector<std::string>;

Layout layout_of(int replicas, int ranks, std::int64_t micro_batches, bool rounds) {
    Layout layout;
    layout.mesh = Mesh({{"replica", replicas}, {"data", ranks}});
    layout.replica_axis = 0;
    layout.data_axis = 1;
    layout.micro_batches = micro_batches;
    layout.rounds = rounds;
    return layout;
}

// Nothing is what a rank without micro-batches has.
std::string sum_of(const std::string& a, const std::string& b) {
    return a.empty() || b.empty() ? a + b : "(" + a + " " + b + ")";
}

// As the executor adds: in slots.
std::string accumulated(const std::vector<std::string>& terms) {
    std::vector<std::string> slots(std::max<std::size_t>(terms.size(), 1));
    const auto steps = accumulation_of(static_cast<std::int64_t>(terms.size()), true);
    for (std::size_t i = 0; i < terms.size(); ++i) {
        slots[steps[i].slot] = terms[i];
        for (const Merge& merge : steps[i].merges)
            slots[merge.into] = sum_of(slots[merge.into], slots[merge.from]);
    }
    return slots.at(0);
}

// As communicators add.
std::string reduced(std::vector<std::string> terms, const SummationTree& tree) {
    for (const SummationTree::Merge& merge : tree.merges()) {
        std::string& into = terms[static_cast<std::size_t>(merge.into)];
        into = sum_of(into, terms[static_cast<std::size_t>(merge.from)]);
    }
    return terms.at(0);
}

std::vector<std::string> numbered(Range range, std::int64_t stride = 1) {
    std::vector<std::string> found;
    for (std::int64_t i = 0; i < range.size(); ++i)
        found.push_back(fmt::format("{}", range.begin + i * stride));
    return found;
}

std::string sum_of_replica(const Layout& layout, int replica) {
    const int ranks = layout.shard_ranks();
    std::vector<std::string> terms;
    if (layout.rounds) {
        const Range whole = share_of_replica(layout, replica);
        for (std::int64_t first = whole.begin; first < whole.end; first += ranks)
            terms.push_back(reduced(numbered({first, first + ranks}), {ranks, ranks}));
        return accumulated(terms);
    }
    for (int rank = 0; rank < ranks; ++rank)
        terms.push_back(accumulated(numbered(share_of(layout, replica * ranks + rank))));
    return reduced(terms, tree_of_replica(layout, replica));
}

// Whether each replica has whole rounds.
bool goes_in_rounds(const Layout& layout) {
    if (layout.micro_batches < layout.data_ranks()) return false;
    const SummationTree tree(layout.micro_batches, layout.replicas());
    for (int replica = 0; replica < layout.replicas(); ++replica)
        if (tree.share(replica).size() % layout.shard_ranks() != 0) return false;
    return true;
}

Experiment plan_hybrid(int replicas, int ranks, int stage, Words words = {}, int rank = 0) {
    words.insert(words.end(), {fmt::format("parallelism.data_parallel_replicate_degree={}", replicas),
                               fmt::format("parallelism.data_parallel_degree={}", ranks / replicas),
                               fmt::format("parallelism.zero_stage={}", stage), "data.vocab_size=3000",
                               "data.synthetic_tokens=4096", "training.global_batch_size=32"});
    return plan_tiny(words, rank, ranks);
}

} // namespace

TEST(HybridShares, SumLikeOneRank) {
    int tried = 0;
    for (const bool rounds : {false, true})
        for (int replicas = 1; replicas <= 5; ++replicas)
            for (const int ranks : {1, 2, 3, 4})
                for (std::int64_t micro_batches = 1; micro_batches <= 24; ++micro_batches) {
                    const Layout layout = layout_of(replicas, ranks, micro_batches, rounds);
                    if (rounds && (ranks == 3 || !goes_in_rounds(layout))) continue;
                    std::vector<std::string> terms;
                    for (int replica = 0; replica < replicas; ++replica)
                        terms.push_back(sum_of_replica(layout, replica));
                    EXPECT_EQ(reduced(terms, tree_of_replicas(layout)), accumulated(numbered({0, micro_batches})))
                        << replicas << " x " << ranks << " ranks";
                    ++tried;
                }
    EXPECT_GT(tried, 200);
}

TEST(HybridShares, GiveALastRankNothing) {
    Layout even = layout_of(2, 2, 5, false);
    EXPECT_EQ(share_of(even, 3).size(), 0); // of the tree 4 + 1
    even.reproducible = false;
    EXPECT_EQ(share_of(even, 3), (Range{4, 5}));
}

// 2 (g-1)/g of what a rank holds of the gradients; weights travel within the replica alone.
TEST(HybridPlan, ReplicasExchangeWhatARankHolds) {
    for (const int stage : {1, 2, 3})
        for (const int replicas : {2, 4}) {
            const int ranks = 8;
            std::int64_t sent = 0;
            std::size_t weights = 0;
            for (int rank = 0; rank < ranks / replicas; ++rank) { // of the first replica
                const Experiment experiment = plan_hybrid(replicas, ranks, stage, {}, rank);
                const Program& train = experiment.train;
                EXPECT_EQ(train.layout.mesh.text(), fmt::format("replica {} x data {}", replicas, ranks / replicas));
                sent += bytes_sent_over(train.layout.replica_axis, train.plan, train.layout);
                for (const Transfers& transfers : transfers_of(train.plan, train.layout))
                    EXPECT_EQ(transfers.axis, train.layout.data_axis);
                weights = train.model.graph.of_kind(ValueKind::parameter).size();
                // A replica is a run of its own but for these sums: all that rests is shared out in it.
                const Experiment alone = plan_hybrid(1, ranks / replicas, stage, {}, rank);
                for (const MemoryKind kind : {MemoryKind::weights, MemoryKind::optimizer})
                    EXPECT_EQ(train.plan.memory[kind], alone.train.plan.memory[kind]) << name_of(kind);
            }
            const std::int64_t count =
                parameter_count(plan_hybrid(replicas, ranks, stage).train.model.graph) * (replicas - 1) / replicas;
            EXPECT_GE(sent, 2 * 4 * count);
            EXPECT_LE(sent, 2 * 4 * count + 64 * static_cast<std::int64_t>(weights + 1) * ranks) << "stage " << stage;
        }
}

// Stage 1 with ranks that compute parts of a micro-batch: sums over them are of what a rank updates.
TEST(HybridPlan, OtherAxesSumWhatARankUpdates) {
    const auto sent = [](int stage) {
        const Experiment experiment =
            plan_tiny({"parallelism.context_parallel_degree=2", fmt::format("parallelism.zero_stage={}", stage),
                       "data.vocab_size=3000", "data.synthetic_tokens=4096"},
                      0, 8);
        const Layout& layout = experiment.train.layout;
        return bytes_sent_over(layout.mesh.axis_named("context"), experiment.train.plan, layout);
    };
    const double whole = static_cast<double>(sent(0));
    EXPECT_LT(static_cast<double>(sent(1)), 0.6 * whole); // its activations travel all the same
}

TEST(HybridPlan, RefusesReplicasOfNothing) {
    const auto refused = [](Words words, const std::string& sentence) {
        EXPECT_THAT([&] { plan_tiny(words, 0, 4); }, ThrowsMessage<ConfigError>(HasSubstr(sentence)));
    };
    const std::string two = "parallelism.data_parallel_replicate_degree=2";
    refused({two}, "replicas are of what ZeRO shares out");
    refused({"parallelism.data_parallel_replicate_degree=4", "parallelism.zero_stage=1"}, "would share out nothing");
    refused({"parallelism.data_parallel_replicate_degree=3", "parallelism.zero_stage=1"},
            "data_parallel_replicate_degree 3");
    refused({two, "parallelism.zero_stage=1", "training.linear_dtype=f8"}, "wants training.dtype");
    EXPECT_NO_THROW(plan_tiny(
        {two, "parallelism.zero_stage=1", "training.dtype=bf16", "training.linear_dtype=f8", "training.seq_len=16"}, 0,
        4));
}

namespace {

struct Gathering {
    int layer;
    std::int64_t begins, ends, used; // calls of the phase
};

const Node& node_of(const Plan& plan, const Call& call) {
    return plan.graph.nodes()[static_cast<std::size_t>(call.node)];
}

std::vector<Gathering> gatherings(const Program& program, Phase phase) {
    const Plan& plan = program.plan;
    std::vector<Gathering> found;
    const std::vector<Call>& calls = plan.calls(phase);
    for (std::size_t i = 0; i < calls.size(); ++i) {
        const Node& node = node_of(plan, calls[i]);
        const auto transfer = node.op->transfer();
        if (!transfer || transfer->collective != Collective::all_gather) continue;
        std::size_t used = i + 1;
        while (used < calls.size() && std::ranges::find(node_of(plan, calls[used]).inputs, node.outputs[0]) ==
                                          node_of(plan, calls[used]).inputs.end())
            ++used;
        const auto begins = static_cast<std::int64_t>(i);
        found.push_back({node.layer, begins, calls[i].ahead_of, static_cast<std::int64_t>(used)});
    }
    return found;
}

Program program_of(int prefetch, Words words = {}) {
    words.insert(words.end(), {"parallelism.zero_stage=3", "model.n_layers=4", "training.recompute=full",
                               fmt::format("parallelism.zero_prefetch={}", prefetch)});
    return plan_tiny(words, 0, 2).train;
}

const std::string messages = "parallelism.shared_memory=false";

} // namespace

TEST(Prefetch, GathersSoManyLayersAhead) {
    for (const int ahead : {1, 2})
        for (const Phase phase : {Phase::forward, Phase::backward}) {
            const Program program = program_of(ahead, {messages});
            std::map<int, std::int64_t> ends; // of a layer's gatherings, where the layer begins
            for (const Gathering& one : gatherings(program, phase)) {
                EXPECT_LT(one.begins, one.ends);
                EXPECT_LE(one.ends, one.used);
                if (one.layer < 0) continue; // before the layers, and behind them
                EXPECT_EQ(ends.emplace(one.layer, one.ends).first->second, one.ends) << "layer " << one.layer;
            }
            ASSERT_GE(ends.size(), 4U);
            const int forward = phase == Phase::forward ? 1 : -1;
            for (const Gathering& one : gatherings(program, phase)) {
                const auto before = ends.find(one.layer - forward * ahead);
                if (one.layer < 0 || before == ends.end()) continue;
                EXPECT_GE(one.begins, before->second); // not before that layer has its own
                const auto next = ends.find(one.layer - forward * (ahead - 1));
                EXPECT_LT(one.begins, next->second);
            }
        }
}

// Nothing else runs in another order, and where there is nothing to hide nothing does.
TEST(Prefetch, ChangesNoOtherOrder) {
    const auto others = [](const Program& program, bool gathered) {
        std::vector<std::string> names;
        for (const auto& phase : program.plan.phases)
            for (const Call& call : phase)
                if (gathered || node_of(program.plan, call).op->name() != "all_gather")
                    names.push_back(node_of(program.plan, call).name);
        return names;
    };
    EXPECT_EQ(others(program_of(0, {messages}), false), others(program_of(2, {messages}), false));
    EXPECT_EQ(others(program_of(1), true), others(program_of(0, {messages}), true));
    EXPECT_EQ(program_of(1).plan.memory.bytes, program_of(0).plan.memory.bytes);
    auto sorted = [&](int ahead) {
        auto names = others(program_of(ahead, {messages}), true);
        std::ranges::sort(names);
        return names;
    };
    EXPECT_EQ(sorted(0), sorted(1));
}

// Of two layers at once instead of one, and the memory of activations holds them.
TEST(Prefetch, KeepsTheWeightsOfOneLayerMore) {
    std::map<int, std::int64_t> of_layer;
    const Program program = program_of(0, {messages});
    for (const Call& call : program.plan.calls(Phase::forward)) {
        const Node& node = node_of(program.plan, call);
        if (node.op->name() == "all_gather")
            of_layer[node.layer] += program.plan.value(node.outputs[0]).local.bytes() + 64;
    }
    std::int64_t largest = 0;
    for (const auto& [layer, bytes] : of_layer)
        largest = std::max(largest, layer < 0 ? 0 : bytes);
    const auto need = [](int ahead) {
        return program_of(ahead, {messages, "training.local_batch_size=1", "training.seq_len=2"})
            .plan.memory[MemoryKind::activations];
    };
    EXPECT_GT(need(1), need(0) + largest / 2);
    EXPECT_LE(need(1), need(0) + 2 * largest); // all of a layer's at once, too
    EXPECT_LE(need(2), need(1) + largest);
}
