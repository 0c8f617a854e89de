// SPDX-License-Identifier: Apache-2.0
// y = log(1 + exp(x)), element by element: an op with its gradient, on CPUs and in f32 only, and the layer that a
// config names.
#include "parts.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>

namespace {

using namespace tessera;

// The work of the calling rank's threads. With a GPU kernel, the other alternative of Stream would get it.
template <class Function> void for_each(Stream& stream, std::int64_t count, const Function& function) {
    if (!std::holds_alternative<CpuStream>(stream)) throw ConfigError("softplus runs on CPUs: run.device = \"cpu\"");
#pragma omp parallel for
    for (std::int64_t i = 0; i < count; ++i)
        function(i);
}

class SoftplusGradient final : public Op { // x, dy -> dx
public:
    std::string_view name() const override { return "softplus_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 2, 1);
    }
    void run(Stream& stream, const Operands& a) const override {
        const auto* x = a.inputs[0].as<float>();
        const auto* dy = a.inputs[1].as<float>();
        auto* dx = a.outputs[0].as<float>();
        for_each(stream, a.outputs[0].count(), [=](std::int64_t i) { dx[i] = dy[i] / (1 + std::exp(-x[i])); });
    }
};

class Softplus final : public Op {
public:
    std::string_view name() const override { return "softplus"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        if (in[0].dtype != DType::f32) throw ConfigError("softplus is there in f32 only");
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(std::make_shared<SoftplusGradient>(), node.name + ".gradient", {node.inputs[0], dy[0]});
    }
    // Cut along any dim, ranks need nothing of each other.
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 1, 1);
    }
    void run(Stream& stream, const Operands& a) const override {
        const auto* x = a.inputs[0].as<float>();
        auto* y = a.outputs[0].as<float>();
        for_each(stream, a.outputs[0].count(),
                 [=](std::int64_t i) { y[i] = std::max(x[i], 0.0f) + std::log1p(std::exp(-std::abs(x[i]))); });
    }
};

layers::BuildLayer read_softplus(const ConfigItem&) {
    return [](const layers::LayerPlace& place) -> layers::LayerValue {
        Builder& builder = place.builder;
        const layers::LayerValue x = place.inputs[0];
        return {builder.graph().apply_one(std::make_shared<Softplus>(), builder.path(""), {x.id}), x.flat};
    };
}

} // namespace

layers::LayerType softplus_layer() { return {"softplus", layers::LayerKind::elementwise, 1, 1, {}, read_softplus}; }
