// SPDX-License-Identifier: Apache-2.0
// Runs ops and graphs the plain way, for tests: every value in guarded memory of its own, one node after another. What
// a node must write is filled with NaN first. Knows no plan, no phase but their order, and no rank.
#pragma once

#include "core/graph/graph.hpp"
#include "kernels/copy.hpp"
#include "tests/support/sample.hpp"

#include <algorithm>
#include <deque>
#include <functional>
#include <random>
#include <vector>

namespace tessera {

using Samples = std::vector<Sample>;

inline void fill_with_nan(const View& view) { // -1 for i32
    if (view.bytes() > 0) std::memset(view.memory(), 0xff, static_cast<std::size_t>(view.bytes()));
}

inline std::vector<View> views_of(const Samples& samples) {
    std::vector<View> views;
    for (const Sample& sample : samples)
        views.push_back(sample.view());
    return views;
}

inline std::vector<TensorType> types_of(const std::vector<View>& views) {
    std::vector<TensorType> types;
    for (const View& view : views)
        types.push_back({view.shape, view.dtype});
    return types;
}

// The host's memory that a run touches, and its copies where the stream works.
class Copies {
public:
    explicit Copies(Stream& stream) : stream_(stream) {}
    View there(const View& here) { // the same memory twice has one copy, as an op in place expects
        if (here.bytes() == 0 || std::holds_alternative<CpuStream>(stream_)) return here;
        for (const auto& [view, buffer] : copies_)
            if (view.data == here.data && view.bytes() == here.bytes()) return {buffer.data(), here.shape, here.dtype};
        const auto& copy =
            copies_.emplace_back(here, std::visit([&](const auto& s) { return allocate(s, here.bytes()); }, stream_));
        const View view(copy.second.data(), here.shape, here.dtype);
        std::visit([&](auto& s) { kernels::upload(s, here, view); }, stream_);
        return view;
    }
    std::vector<View> there(const std::vector<View>& here) {
        std::vector<View> views;
        for (const View& view : here)
            views.push_back(there(view));
        return views;
    }
    void bring_back() {
        for (const auto& [view, buffer] : copies_)
            std::visit([&](auto& s) { kernels::download(s, View(buffer.data(), view.shape, view.dtype), view); },
                       stream_);
    }

private:
    Stream& stream_;
    std::deque<std::pair<View, Buffer>> copies_;
};

inline void run_op(const Op& op, const std::vector<View>& inputs, const std::vector<View>& outputs, Stream& stream,
                   const Locality* locality = nullptr) {
    const Sample workspace({(op.workspace_bytes(stream, types_of(inputs), types_of(outputs)) + 3) / 4}, DType::f32);
    fill_with_nan(workspace.view());
    Copies copies(stream);
    const std::vector<View> in = copies.there(inputs), out = copies.there(outputs);
    op.run(stream, {in, out, copies.there(workspace.view()), locality, nullptr});
    std::visit([](auto& s) { s.wait(); }, stream);
    copies.bring_back();
}
inline void run_op(const Op& op, const std::vector<View>& inputs, const std::vector<View>& outputs) {
    Stream stream = CpuStream(1);
    run_op(op, inputs, outputs, stream);
}

// Normal numbers around `offset`, or ids in [0, below).
inline void fill_randomly(Sample& sample, std::mt19937& generator, double offset = 0, std::int32_t below = 0) {
    std::normal_distribution<double> normal(offset, 1);
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, sample.dtype() == DType::i32
                          ? static_cast<double>(generator() % static_cast<std::uint32_t>(std::max(below, 1)))
                          : normal(generator));
}

class GraphRun {
public:
    explicit GraphRun(const Graph& graph, Stream stream = CpuStream(1)) : graph_(graph), stream_(std::move(stream)) {
        for (const Value& value : graph.values())
            values_.emplace_back(value.type.shape, value.type.dtype);
    }

    Sample& operator[](ValueId id) { return values_[static_cast<std::size_t>(id)]; }

    Samples samples(const std::vector<ValueId>& ids) {
        Samples found;
        for (const ValueId id : ids)
            found.push_back((*this)[id]);
        return found;
    }

    // Calls before(node), if given, when a node's inputs are there.
    void run(const StepState& state, const std::function<void(const Node&)>& before = {},
             const std::vector<Phase>& phases = {Phase::prepare, Phase::forward, Phase::backward, Phase::update}) {
        for (std::size_t i = 0; i < graph_.values().size(); ++i)
            if (const StepFunction& of_step = graph_.values()[i].of_step) of_step(state, values_[i].view());
        for (const Phase phase : phases)
            for (const Node& node : graph_.nodes()) {
                if (node.phase != phase) continue;
                if (before) before(node);
                for (const ValueId output : node.outputs)
                    fill_with_nan((*this)[output].view());
                run_op(*node.op, views(node.inputs), views(node.outputs), stream_);
            }
    }

private:
    std::vector<View> views(const std::vector<ValueId>& ids) {
        std::vector<View> found;
        for (const ValueId id : ids)
            found.push_back((*this)[id].view());
        return found;
    }

    const Graph& graph_;
    Stream stream_;
    std::deque<Sample> values_;
};

} // namespace tessera
