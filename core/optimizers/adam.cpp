// SPDX-License-Identifier: Apache-2.0
// Adam (Kingma and Ba 2015) and AdamW, with decoupled weight decay (Loshchilov and Hutter 2019).
#include "core/optimizers/optimizer.hpp"
#include "kernels/update.hpp"

namespace tessera {
namespace {

class AdamUpdate final : public Op { // gradient, factor, weight, first moment, second moment; the last three change
public:
    explicit AdamUpdate(const kernels::Adam& settings) : settings_(settings) {}
    std::string_view name() const override { return "adam"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim) {
            const Placement shard = Placement::shard(dim);
            rules.push_back({{shard, Placement::replicate(), shard, shard, shard}, {}});
        }
        return rules;
    }
    std::vector<int> writes() const override { return {2, 3, 4}; }
    void run(Stream& stream, const Operands& a) const override {
        kernels::Adam settings = settings_;
        settings.learning_rate = static_cast<float>(a.state.learning_rate);
        settings.step = a.state.step + 1;
        std::visit(
            [&](auto& s) {
                kernels::adam(s, settings, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[3], a.inputs[4], {});
            },
            stream);
    }

private:
    kernels::Adam settings_;
};

class Adam final : public Optimizer {
public:
    explicit Adam(const kernels::Adam& settings) : settings_(settings) {}
    void append_update(Graph& graph, ValueId parameter, ValueId gradient, ValueId factor) const override {
        const std::string name = graph.value(parameter).name;
        kernels::Adam settings = settings_;
        if (!graph.value(parameter).parameter->decays) settings.weight_decay = 0;
        graph.apply(std::make_shared<AdamUpdate>(settings), name + ".update",
                    {gradient, factor, parameter, graph.optimizer_state("optimizer.first_moment/" + name, parameter),
                     graph.optimizer_state("optimizer.second_moment/" + name, parameter)});
    }

private:
    kernels::Adam settings_;
};

float within(const Config& config, const Key<double>& key, double low, double high) {
    const double value = config.get(key);
    if (!(value >= low && value < high)) config.refuse(key.name, "out of range");
    return static_cast<float>(value);
}

} // namespace

std::unique_ptr<Optimizer> make_adam(const Config& config, bool decoupled) {
    return std::make_unique<Adam>(kernels::Adam{.beta1 = within(config, optimizer_beta1, 0, 1),
                                                .beta2 = within(config, optimizer_beta2, 0, 1),
                                                .epsilon = within(config, optimizer_epsilon, 0, 1),
                                                .weight_decay = within(config, optimizer_decay, 0, 1e3),
                                                .decoupled = decoupled});
}

} // namespace tessera
