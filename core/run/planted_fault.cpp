// SPDX-License-Identifier: Apache-2.0
// A plan is data: a fault is another op in a node's place, an exchange that is left out, or a message marked as lost.
#include "core/run/planted_fault.hpp"

#include "kernels/copy.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

// The memory is planned already: only `run` is asked for.
class FaultyOp : public Op {
public:
    explicit FaultyOp(OpPointer op) : op_(std::move(op)) {}
    std::string_view name() const override { return op_->name(); }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return op_->infer(in); }
    std::optional<Transfer> transfer() const override { return op_->transfer(); }

protected:
    OpPointer op_;
};

class DroppedCollective final : public FaultyOp {
public:
    using FaultyOp::FaultyOp;
    void run(Stream& stream, const Operands& a) const override {
        const View &from = a.inputs[0], &to = a.outputs[0];
        if (transfer()->collective != Collective::all_reduce) return clear_but(stream, to, from);
        if (to.data != from.data) std::visit([&](auto& s) { kernels::cast(s, from, to); }, stream);
    }

private:
    // A part that is gathered may lie at its place in the whole.
    static void clear_but(Stream& stream, const View& whole, const View& part) {
        auto* const begin = static_cast<std::byte*>(whole.memory());
        auto* const kept = static_cast<std::byte*>(part.memory());
        const bool inside = kept >= begin && kept < begin + whole.bytes();
        const std::int64_t before = inside ? (kept - begin) / bytes_of(whole.dtype) : 0;
        const std::int64_t after = inside ? before + part.count() : 0;
        clear(stream, View(begin, {before}, whole.dtype));
        clear(stream, View(begin + after * bytes_of(whole.dtype), {whole.count() - after}, whole.dtype));
    }
    static void clear(Stream& stream, const View& view) {
        std::visit([&](auto& s) { kernels::fill(s, view, 0); }, stream);
    }
};

class ScaledOutput final : public FaultyOp {
public:
    ScaledOutput(OpPointer op, std::size_t output, int count)
        : FaultyOp(std::move(op)), output_(output), count_(count) {}
    void run(Stream& stream, const Operands& a) const override {
        op_->run(stream, a);
        const View& to = a.outputs[output_];
        std::visit([&](auto& s) { kernels::scale(s, to, static_cast<float>(count_), to); }, stream);
    }

private:
    std::size_t output_;
    int count_;
};

void replace_op(Plan& plan, std::size_t node, OpPointer op) {
    std::deque<Node> nodes = plan.graph.nodes();
    nodes[node].op = std::move(op);
    plan.graph.replace_nodes(std::move(nodes));
}

// The exchange in two, and between them one of no bytes, so that the plan still says that a sum of the value is owed.
std::vector<Exchange> without(const Exchange& exchange, ValueId id, const Plan& plan) {
    const std::int64_t begin = plan.value(id).offset;
    const std::int64_t end = begin + align_up(plan.value(id).local.bytes());
    Exchange before = exchange, none = exchange, after = exchange;
    before.bytes = begin - exchange.offset;
    std::erase_if(before.values, [&](ValueId other) { return plan.value(other).offset >= begin; });
    none.offset = begin;
    none.bytes = 0;
    none.values = {id};
    after.offset = end;
    after.bytes = exchange.offset + exchange.bytes - end;
    std::erase_if(after.values, [&](ValueId other) { return plan.value(other).offset < end; });
    std::vector<Exchange> rest{before, none, after};
    std::erase_if(rest, [&](const Exchange& one) {
        const bool scatters = one.collective == Collective::reduce_scatter; // value by value, whatever its bytes
        return one.values.empty() || (one.bytes == 0 && scatters);
    });
    return rest;
}

void drop_exchanges_of(ValueId id, Plan& plan) {
    std::vector<Exchange> kept;
    for (const Exchange& exchange : plan.exchanges) {
        const bool has = std::ranges::find(exchange.values, id) != exchange.values.end();
        const std::vector<Exchange> rest = has ? without(exchange, id, plan) : std::vector<Exchange>{exchange};
        kept.insert(kept.end(), rest.begin(), rest.end());
    }
    plan.exchanges = std::move(kept);
}

// Whether the value goes from stage to stage.
bool lose_messages(const std::string& name, Plan& plan) {
    const auto is_named = [&](ValueId id) { return plan.graph.value(id).name == name; };
    bool found = false;
    for (Route& route : plan.routes)
        if (is_named(route.value)) found = route.lost = true;
    for (Part& part : plan.parts)
        for (std::vector<StageMessage>* messages : {&part.sends, &part.receives})
            for (StageMessage& message : *messages)
                message.lost = message.lost || is_named(message.value);
    return found;
}

void drop(const std::string& name, Plan& plan) {
    std::vector<std::string_view> known;
    const auto& nodes = plan.graph.nodes();
    for (std::size_t i = 0; i < nodes.size(); ++i) {
        const auto transfer = nodes[i].op->transfer();
        if (!transfer || transfer->collective == Collective::slice) continue;
        known.push_back(nodes[i].name);
        if (nodes[i].name == name) return replace_op(plan, i, std::make_shared<DroppedCollective>(nodes[i].op));
    }
    for (const Exchange& exchange : plan.exchanges)
        for (const ValueId id : exchange.values) {
            known.push_back(plan.graph.value(id).name);
            if (known.back() == name) return drop_exchanges_of(id, plan);
        }
    if (lose_messages(name, plan)) return;
    for (const Route& route : plan.routes)
        known.push_back(plan.graph.value(route.value).name);
    if (known.empty()) throw ConfigError(fmt::format("no collective named '{}': one rank needs none", name));
    throw ConfigError(no_such_name("collective of this layout", name, known));
}

void scale(const std::string& name, int count, Plan& plan) {
    std::vector<std::string_view> known;
    const auto& nodes = plan.graph.nodes();
    for (std::size_t i = 0; i < nodes.size(); ++i)
        for (std::size_t output = 0; output < nodes[i].outputs.size(); ++output) {
            known.push_back(plan.graph.value(nodes[i].outputs[output]).name);
            if (known.back() == name)
                return replace_op(plan, i, std::make_shared<ScaledOutput>(nodes[i].op, output, count));
        }
    throw ConfigError(no_such_name("value of this model", name, known));
}

} // namespace

void plant_fault(const std::string& fault, int count, Plan& plan) {
    if (fault.starts_with("drop:")) return drop(fault.substr(5), plan);
    if (fault.starts_with("scale:")) return scale(fault.substr(6), count, plan);
    throw ConfigError(fmt::format("no fault '{}': say drop:NAME or scale:NAME", fault));
}

} // namespace tessera
