// SPDX-License-Identifier: Apache-2.0
// What every plan must keep, worked out again here from the graph and the planned list alone: no two living values
// share a byte, nothing needless runs, what is owed to other ranks is exchanged once.
#include "core/plan/plan.hpp"
#include "core/ops/ops.hpp"
#include "core/plan/shares.hpp"
#include "kernels/error.hpp"
#include "tests/core/functional.hpp"
#include "tests/core/planned_run.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <bit>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <set>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::max();

// When a value is written first and read last, as positions in the list of calls; -1 is before all of them.
struct Lifetime {
    std::int64_t begin = for_ever;
    std::int64_t end = -2; // never
    bool lives() const { return begin <= end; }
};

std::vector<const Node*> calls_of(const Graph& graph, const Plan& plan) {
    std::vector<const Node*> calls;
    for (const auto& phase : plan.phases)
        for (const Call& call : phase)
            calls.push_back(&graph.nodes()[static_cast<std::size_t>(call.node)]);
    return calls;
}

std::vector<Lifetime> lifetimes(const Graph& graph, const Plan& plan) {
    std::vector<Lifetime> lives(graph.values().size());
    const auto at = [&](ValueId id) -> Lifetime& { return lives[static_cast<std::size_t>(id)]; };
    const std::vector<const Node*> calls = calls_of(graph, plan);
    for (std::size_t i = 0; i < lives.size(); ++i) {
        const Value& value = graph.values()[i];
        const bool persists = value.kind == ValueKind::parameter || value.kind == ValueKind::optimizer_state;
        if (value.producer < 0) lives[i] = {-1, persists ? for_ever : -1};
    }
    for (std::size_t time = 0; time < calls.size(); ++time) {
        for (const ValueId input : calls[time]->inputs)
            at(input).end = std::max(at(input).end, static_cast<std::int64_t>(time));
        for (const ValueId output : calls[time]->outputs) { // written even where nobody reads it
            const bool persists = calls[time]->phase == Phase::prepare || graph.value(output).accumulated;
            at(output).begin = static_cast<std::int64_t>(time);
            at(output).end = persists ? for_ever : static_cast<std::int64_t>(time);
        }
    }
    for (const ValueId id : graph.kept())
        at(id).end = for_ever;
    return lives;
}

// `after` takes over the memory of `before`, which its producer reads for the last time.
bool takes_over(const Graph& graph, const std::vector<const Node*>& calls, const std::vector<Lifetime>& lives,
                std::size_t before, std::size_t after) {
    if (lives[before].end != lives[after].begin || lives[after].begin < 0) return false;
    const Node& node = *calls[static_cast<std::size_t>(lives[after].begin)];
    const int position = node.op->in_place_input();
    return position >= 0 && node.outputs[0] == static_cast<ValueId>(after) &&
           node.inputs[static_cast<std::size_t>(position)] == static_cast<ValueId>(before) &&
           std::count(node.inputs.begin(), node.inputs.end(), static_cast<ValueId>(before)) == 1 &&
           graph.value(node.outputs[0]).type.bytes() <= graph.values()[before].type.bytes();
}

// A weight that rests in part where the whole is gathered.
bool rests_within(const Graph& graph, std::size_t part, std::size_t whole) {
    const std::int32_t producer = graph.values()[whole].producer;
    if (graph.values()[part].kind != ValueKind::parameter || producer < 0) return false;
    const Node& node = graph.nodes()[static_cast<std::size_t>(producer)];
    return node.phase == Phase::prepare && node.op->transfer() && node.inputs[0] == static_cast<ValueId>(part);
}

// Returns how many values took over the memory of another.
int expect_memory_is_safe(const Graph& graph, const Plan& plan) {
    const std::vector<const Node*> calls = calls_of(graph, plan);
    const std::vector<Lifetime> lives = lifetimes(graph, plan);
    int taken_over = 0;
    for (std::size_t a = 0; a < plan.values.size(); ++a) {
        const PlannedValue& one = plan.values[a];
        EXPECT_EQ(one.offset >= 0, lives[a].lives()) << graph.values()[a].name;
        if (!lives[a].lives() || one.offset < 0) continue;
        if (one.local.bytes() > 0) {
            EXPECT_EQ(one.offset % 64, 0) << graph.values()[a].name;
        }
        const std::int64_t limit = one.memory == MemoryKind::gradients ? plan.slot_bytes : plan.memory[one.memory];
        EXPECT_LE(one.offset + one.local.bytes(), limit) << graph.values()[a].name;
        for (std::size_t b = a + 1; b < plan.values.size(); ++b) {
            const PlannedValue& other = plan.values[b];
            const bool together = lives[b].lives() && lives[a].begin <= lives[b].end && lives[b].begin <= lives[a].end;
            const bool shared = one.memory == other.memory && one.offset < other.offset + other.local.bytes() &&
                                other.offset < one.offset + one.local.bytes();
            if (!together || !shared || rests_within(graph, a, b) || rests_within(graph, b, a)) continue;
            const bool allowed = takes_over(graph, calls, lives, a, b) || takes_over(graph, calls, lives, b, a);
            EXPECT_TRUE(allowed && one.offset == other.offset)
                << "'" << graph.values()[a].name << "' and '" << graph.values()[b].name << "' share memory";
            ++taken_over;
        }
    }
    return taken_over;
}

void expect_only_what_is_needed_runs(const Graph& graph, const Plan& plan) {
    std::set<ValueId> needed(graph.kept().begin(), graph.kept().end());
    for (std::size_t i = 0; i < graph.values().size(); ++i)
        if (graph.values()[i].accumulated) needed.insert(static_cast<ValueId>(i));
    std::set<std::int32_t> runs;
    for (const auto& phase : plan.phases)
        for (const Call& call : phase)
            EXPECT_TRUE(runs.insert(call.node).second);
    const auto wanted = [&](const Node& node) {
        return !node.op->writes().empty() ||
               std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) { return needed.contains(id); });
    };
    for (bool grown = true; grown;) { // to a fixed point, in no particular order
        grown = false;
        for (const Node& node : graph.nodes())
            if (wanted(node))
                for (const ValueId input : node.inputs)
                    grown = needed.insert(input).second || grown;
    }
    for (std::size_t i = 0; i < graph.nodes().size(); ++i)
        EXPECT_EQ(runs.contains(static_cast<std::int32_t>(i)), wanted(graph.nodes()[i])) << graph.nodes()[i].name;
}

// Each input is written before it is read, in the order in which the phases run.
void expect_order_is_right(const Graph& graph, const Plan& plan) {
    std::set<ValueId> written;
    for (std::size_t i = 0; i < graph.values().size(); ++i)
        if (graph.values()[i].producer < 0) written.insert(static_cast<ValueId>(i));
    for (const Node* node : calls_of(graph, plan)) {
        for (const ValueId input : node->inputs)
            EXPECT_TRUE(written.contains(input)) << node->name << " reads " << graph.value(input).name;
        written.insert(node->outputs.begin(), node->outputs.end());
    }
}

void expect_exchanges_cover_what_is_owed(const Graph& graph, const Plan& plan, int ranks) {
    std::multiset<ValueId> exchanged;
    std::set<std::pair<std::int64_t, std::int64_t>> buckets;
    std::size_t after = 0;
    for (const Exchange& exchange : plan.exchanges) {
        EXPECT_GE(exchange.after, after) << "exchanges are in the order in which they may start";
        after = exchange.after;
        EXPECT_EQ(exchange.collective, Collective::all_reduce);
        EXPECT_LE(exchange.offset + exchange.bytes, plan.slot_bytes);
        for (const auto& [begin, end] : buckets)
            EXPECT_TRUE(exchange.offset >= end || exchange.offset + exchange.bytes <= begin);
        buckets.emplace(exchange.offset, exchange.offset + exchange.bytes);
        for (const ValueId id : exchange.values) {
            exchanged.insert(id);
            EXPECT_GE(plan.value(id).offset, exchange.offset);
            EXPECT_LE(plan.value(id).offset + plan.value(id).local.bytes(), exchange.offset + exchange.bytes);
            const std::vector<Call>& calls = plan.calls(Phase::backward);
            for (std::size_t i = exchange.after; i < calls.size(); ++i)
                EXPECT_NE(calls[i].node, graph.value(id).producer) << "exchanged before it is there";
        }
    }
    for (std::size_t i = 0; i < graph.values().size(); ++i) {
        const auto id = static_cast<ValueId>(i);
        EXPECT_EQ(exchanged.count(id), ranks > 1 && graph.values()[i].accumulated ? 1 : 0) << graph.values()[i].name;
        EXPECT_EQ(plan.value(id).memory == MemoryKind::gradients, graph.values()[i].accumulated);
    }
}

void expect_memory_adds_up(const Graph& graph, const Plan& plan, const Stream& stream) {
    std::int64_t total = 0, workspace = 0;
    for (const std::int64_t bytes : plan.memory.bytes) {
        EXPECT_EQ(bytes % 64, 0);
        total += bytes;
    }
    EXPECT_EQ(plan.memory.total(), total);
    EXPECT_EQ(plan.memory[MemoryKind::gradients], plan.slots * plan.slot_bytes);
    for (const auto& phase : plan.phases)
        for (const Call& call : phase) {
            const Node& node = graph.nodes()[static_cast<std::size_t>(call.node)];
            std::vector<TensorType> inputs, outputs;
            for (const ValueId id : node.inputs)
                inputs.push_back(plan.value(id).local);
            for (const ValueId id : node.outputs)
                outputs.push_back(plan.value(id).local);
            EXPECT_GE(call.workspace_bytes, node.op->workspace_bytes(stream, inputs, outputs)) << node.name;
            workspace = std::max(workspace, call.workspace_bytes);
        }
    EXPECT_EQ(plan.memory[MemoryKind::workspace], workspace);
}

std::string text_of(const Plan& plan) { // all of it
    std::string text = fmt::format("{} {} {} {}-{} {}\n", fmt::join(plan.memory.bytes, " "), plan.slot_bytes,
                                   plan.slots, plan.share.begin, plan.share.end, plan.flops_per_micro_batch);
    for (const auto& phase : plan.phases)
        for (const Call& call : phase)
            text += fmt::format("call {} {}\n", call.node, call.workspace_bytes);
    for (const Exchange& exchange : plan.exchanges)
        text += fmt::format("{} {} {} {} {} {}\n", name_of(exchange.collective), exchange.axis, exchange.offset,
                            exchange.bytes, exchange.after, fmt::join(exchange.values, " "));
    for (const PlannedValue& value : plan.values)
        text += fmt::format("{} {} {} {} {}\n", value.placements[0].text(), value.local.shape.text(),
                            name_of(value.local.dtype), name_of(value.memory), value.offset);
    return text;
}

} // namespace

TEST(Plan, KeepsItsPromisesForEveryVariantAndRank) {
    const Stream stream = CpuStream(1);
    for (const Variant& variant : variants())
        for (const int ranks : {1, 2, 3, 4})
            for (int rank = 0; rank < ranks; ++rank) {
                SCOPED_TRACE(fmt::format("{}, rank {} of {}", variant.name, rank, ranks));
                const Experiment experiment = plan_tiny(variant.overrides, rank, ranks);
                for (const Program* program : {&experiment.train, &experiment.evaluate}) {
                    const Graph& graph = program->model.graph;
                    const Plan& plan = program->plan;
                    const int taken_over = expect_memory_is_safe(graph, plan);
                    EXPECT_GT(taken_over, 0); // in place is used at all
                    expect_only_what_is_needed_runs(graph, plan);
                    expect_order_is_right(graph, plan);
                    expect_exchanges_cover_what_is_owed(graph, plan, ranks);
                    expect_memory_adds_up(graph, plan, stream);
                }
            }
}

TEST(Plan, KeepsItsPromisesOnEveryMesh) {
    const Stream stream = CpuStream(1);
    for (const int data : {1, 2})
        for (const int context : {1, 2})
            for (const int tensor : {1, 2})
                for (const int stage : {0, 1, 2, 3})
                    for (const Variant& variant : variants()) {
                        if (variant.name == "f8" && context * tensor > 1) continue; // refused
                        const int ranks = data * context * tensor;
                        SCOPED_TRACE(fmt::format("data {} x context {} x tensor {}, ZeRO {}, {}", data, context, tensor,
                                                 stage, variant.name));
                        std::vector<std::string> words = variant.overrides;
                        if (variant.name.starts_with("llama")) words.emplace_back("model.n_kv_heads=4");
                        words.insert(words.end(), {"model.n_heads=8", "training.global_batch_size=16",
                                                   fmt::format("parallelism.context_parallel_degree={}", context),
                                                   fmt::format("parallelism.tensor_parallel_degree={}", tensor),
                                                   fmt::format("parallelism.sequence_parallel={}", stage % 2 == 0),
                                                   fmt::format("parallelism.shared_memory={}", tensor == 1),
                                                   fmt::format("parallelism.zero_prefetch={}", context),
                                                   fmt::format("parallelism.zero_stage={}", stage)});
                        const Plan plan = plan_tiny(words, ranks - 1, ranks).train.plan;
                        EXPECT_GT(expect_memory_is_safe(plan.graph, plan), 0);
                        expect_only_what_is_needed_runs(plan.graph, plan);
                        expect_order_is_right(plan.graph, plan);
                        expect_memory_adds_up(plan.graph, plan, stream);
                    }
}

TEST(Plan, IsAPureFunction) {
    for (const Variant& variant : variants()) {
        EXPECT_EQ(text_of(plan_tiny(variant.overrides, 1, 3).train.plan),
                  text_of(plan_tiny(variant.overrides, 1, 3).train.plan));
        EXPECT_NE(text_of(plan_tiny(variant.overrides, 0, 3).train.plan),
                  text_of(plan_tiny(variant.overrides, 2, 3).train.plan)); // the share at least
    }
}

TEST(Plan, ReusesTheMemoryOfDeadActivations) {
    const Experiment experiment = plan_tiny({}, 0, 1);
    std::int64_t sum = 0;
    for (const PlannedValue& value : experiment.train.plan.values)
        if (value.memory == MemoryKind::activations && value.offset >= 0) sum += value.local.bytes();
    EXPECT_LT(experiment.train.plan.memory[MemoryKind::activations], sum / 2);
}

TEST(Plan, ASumNeedsASlotPerBitOfTheShare) {
    for (std::int64_t micro_batches = 1; micro_batches <= 33; ++micro_batches) {
        const std::string batch = fmt::format("training.global_batch_size={}", 2 * micro_batches);
        const Plan plan = plan_tiny({batch}, 0, 1).train.plan;
        EXPECT_EQ(plan.share, (Range{0, micro_batches}));
        EXPECT_EQ(plan.slots, std::bit_width(static_cast<std::uint64_t>(micro_batches)));
        EXPECT_EQ(plan_tiny({batch, "run.reproducible=false"}, 0, 1).train.plan.slots, micro_batches == 1 ? 1 : 2);
    }
    EXPECT_EQ(plan_tiny({}, 1, 2).train.plan.slots, 3); // 4 of 8
}

TEST(Plan, LeavesOutWhatNobodyNeeds) {
    Graph graph;
    const ValueId w = graph.parameter("w", {4}, {"weight", -1, {}, true});
    const ValueId b = graph.parameter("b", {4}, {"bias", -1, {}, false});
    const ValueId dead = ops::activation(graph, "dead", Activation::gelu, w);
    const ValueId deader = ops::add(graph, "deader", dead, b);
    const ValueId loss = graph.apply(std::make_shared<Quadratic>(), "quadratic", {w, b})[2];
    graph.accumulate(loss);
    const PlannedRun run(graph);
    EXPECT_EQ(calls_of(graph, run.plan).size(), 1);
    EXPECT_EQ(run.plan.value(dead).offset, -1);
    EXPECT_EQ(run.plan.value(deader).offset, -1);
    EXPECT_GE(run.plan.value(loss).offset, 0);
}

TEST(Plan, WritesInPlaceOnlyOverWhatIsDead) {
    Graph graph;
    const TensorType type{{32}, DType::f32};
    const ValueId x = graph.input("x", type);
    const ValueId y = ops::add(graph, "y", x, x); // reads x twice: may still lie where x does
    const ValueId z = ops::add(graph, "z", y, y);
    const ValueId late = ops::add(graph, "late", z, y); // y lives past z
    graph.keep(late);
    PlannedRun run(graph);
    EXPECT_NE(run.plan.value(z).offset, run.plan.value(y).offset);
    EXPECT_EQ(run.plan.value(late).offset, run.plan.value(z).offset);
    const std::vector<float> numbers(32, 1.5f);
    run.step({}, [&] { run.set(x, numbers); });
    EXPECT_EQ(run.get(late), std::vector<float>(32, 9.0f));
}

namespace {

class Unshardable final : public Op { // has no rules
public:
    std::string_view name() const override { return "sort"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    void run(Stream&, const Operands&) const override {}
};

} // namespace

TEST(Plan, RefusesAnOpThatCannotRunSharded) {
    Graph graph;
    const ValueId x = graph.input("x", {{4, 2}, DType::f32});
    graph.keep(graph.apply_one(std::make_shared<Unshardable>(), "layers.0.sorted", {x}));
    const Stream stream = CpuStream(1);
    EXPECT_NO_THROW(make_plan(graph, data_layout(1, 2), 0, stream));
    EXPECT_THAT(
        [&] { make_plan(graph, data_layout(2, 2), 0, stream); },
        ThrowsMessage<ConfigError>("sort 'layers.0.sorted' cannot run on mesh axis 'data' with its inputs placed "
                                   "so: x Shard(0)"));
}

TEST(Plan, TakesMoreRanksThanMicroBatches) {
    Graph graph;
    graph.keep(graph.input("x", {{4}, DType::f32}));
    const Stream stream = CpuStream(1);
    const Layout layout = data_layout(3, 2);
    const Plan last = make_plan(graph, layout, 2, stream), first = make_plan(graph, layout, 0, stream);
    EXPECT_EQ(last.share.size(), 0);
    EXPECT_EQ(last.idle_rounds, 1);
    EXPECT_EQ(first.share.size(), 1);
    EXPECT_EQ(first.idle_rounds, 0);
}

// Whatever buckets the sums of the two axes are in: over the replicas a value is summed after the data axis.
TEST(Exchanges, OfReplicasFollowThoseOfTheDataAxis) {
    for (const int stage : {1, 2, 3})
        for (int cap = 1; cap <= 400; ++cap) { // of 64 bytes, as values are
            const Experiment experiment = plan_tiny({fmt::format("parallelism.zero_stage={}", stage),
                                                     "parallelism.data_parallel_replicate_degree=2",
                                                     fmt::format("parallelism.bucket_cap_mb={}", cap / 16384.0)},
                                                    0, 4);
            const Program& program = experiment.train;
            std::set<ValueId> summed;
            std::size_t followed = 0;
            for (const Exchange& exchange : program.plan.exchanges)
                for (const ValueId id : exchange.values) {
                    if (exchange.axis == program.layout.data_axis) summed.insert(id);
                    if (exchange.axis != program.layout.replica_axis) continue;
                    followed += summed.count(id);
                    EXPECT_TRUE(summed.contains(id) || stage > 1)
                        << program.plan.graph.value(id).name << ", cap " << cap;
                }
            EXPECT_TRUE(stage > 1 || followed > 10);
        }
}
