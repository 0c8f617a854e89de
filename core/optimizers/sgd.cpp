// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent, plain, with momentum, or with Nesterov's (Sutskever et al. 2013).
#include "core/optimizers/optimizer.hpp"
#include "kernels/update.hpp"

namespace tessera {
namespace {

class SgdUpdate final : public Op { // gradient, factor, weight[, velocity]; the last two change
public:
    explicit SgdUpdate(const kernels::Sgd& settings) : settings_(settings) {}
    std::string_view name() const override { return "sgd"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::shard(dim)), {}};
            rule.inputs[1] = Placement::replicate();
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    std::vector<int> writes() const override {
        return settings_.momentum == 0 ? std::vector<int>{2} : std::vector<int>{2, 3};
    }
    void run(Stream& stream, const Operands& a) const override {
        kernels::Sgd settings = settings_;
        settings.learning_rate = static_cast<float>(a.state.learning_rate);
        settings.first_step = a.state.step == 0;
        const View velocity = a.inputs.size() == 4 ? a.inputs[3] : View();
        std::visit([&](auto& s) { kernels::sgd(s, settings, a.inputs[0], a.inputs[1], a.inputs[2], velocity, {}); },
                   stream);
    }

private:
    kernels::Sgd settings_;
};

class Sgd final : public Optimizer {
public:
    explicit Sgd(const kernels::Sgd& settings) : settings_(settings) {}
    void append_update(Graph& graph, ValueId parameter, ValueId gradient, ValueId factor) const override {
        const std::string name = graph.value(parameter).name;
        kernels::Sgd settings = settings_;
        if (!graph.value(parameter).parameter->decays) settings.weight_decay = 0;
        std::vector<ValueId> inputs{gradient, factor, parameter};
        if (settings.momentum != 0) inputs.push_back(graph.optimizer_state("optimizer.velocity/" + name, parameter));
        graph.apply(std::make_shared<SgdUpdate>(settings), name + ".update", std::move(inputs));
    }

private:
    kernels::Sgd settings_;
};

} // namespace

std::unique_ptr<Optimizer> make_sgd(const Config& config) {
    const double momentum = config.get(optimizer_momentum);
    const bool nesterov = config.get(optimizer_nesterov);
    if (!(momentum >= 0 && momentum < 1)) config.refuse(optimizer_momentum.name, "must be at least 0 and below 1");
    if (nesterov && momentum == 0) config.refuse(optimizer_nesterov.name, "needs optimizer.momentum above 0");
    return std::make_unique<Sgd>(kernels::Sgd{.momentum = static_cast<float>(momentum),
                                              .weight_decay = static_cast<float>(config.get(optimizer_decay)),
                                              .nesterov = nesterov});
}

} // namespace tessera
