// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent, plain, with momentum, or with Nesterov's (Sutskever et al. 2013).
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/update_op.hpp"
#include "kernels/update.hpp"

namespace tessera {
namespace {

class SgdUpdate final : public UpdateOp { // with momentum, keeps the velocity
public:
    SgdUpdate(const kernels::Sgd& settings, std::size_t tensors)
        : UpdateOp(tensors, settings.momentum == 0 ? 0 : 1), settings_(settings) {}
    std::string_view name() const override { return "sgd"; }
    void run(Stream& stream, const Operands& a) const override {
        kernels::SgdTensors tensors{gradients(a), weights(a), {}, {}};
        if (settings_.momentum != 0) tensors.velocities = state(a, 0);
        std::visit([&](auto& s) { kernels::sgd(s, settings_, pace(a), factor(a), tensors); }, stream);
    }

private:
    kernels::Sgd settings_;
};

class Sgd final : public Optimizer {
public:
    explicit Sgd(const kernels::Sgd& settings) : settings_(settings) {}
    std::vector<std::string_view> states() const override {
        return settings_.momentum == 0 ? std::vector<std::string_view>{} : std::vector<std::string_view>{"velocity"};
    }
    float weight_decay() const override { return settings_.weight_decay; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        kernels::Sgd settings = settings_;
        settings.weight_decay = alike.weight_decay;
        const ValueId rate = learning_rate(graph, alike.name + ".pace", alike.rate_factor);
        graph.apply(std::make_shared<SgdUpdate>(settings, alike.parameters.size()), alike.name,
                    update_inputs(rate, factor, alike.parameters));
    }

private:
    kernels::Sgd settings_;
};

} // namespace

std::unique_ptr<Optimizer> make_sgd(const Config& config) {
    const double momentum = config.get(optimizer_momentum);
    const bool nesterov = config.get(optimizer_nesterov);
    if (!(momentum >= 0 && momentum < 1)) config.refuse(optimizer_momentum.name, "must be at least 0 and below 1");
    const double decay = config.get(optimizer_decay);
    if (!(decay >= 0)) config.refuse(optimizer_decay.name, "must be at least 0");
    if (nesterov && momentum == 0) config.refuse(optimizer_nesterov.name, "needs optimizer.momentum above 0");
    return std::make_unique<Sgd>(kernels::Sgd{
        .momentum = static_cast<float>(momentum), .weight_decay = static_cast<float>(decay), .nesterov = nesterov});
}

} // namespace tessera
