// SPDX-License-Identifier: Apache-2.0
// Adagrad (Duchi et al. 2011), RMSProp (Tieleman and Hinton 2012) and Lion (Chen et al. 2023).
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/update_op.hpp"
#include "kernels/update_rules.hpp"

namespace tessera {
namespace {

// What differs between them. `Settings` has a weight_decay.
struct AdagradRule {
    using Settings = kernels::Adagrad;
    static constexpr std::string_view name = "adagrad";
    static std::vector<std::string_view> states(const Settings&) { return {"square_sum"}; }
    template <class S> static void run(S& s, const Settings& f, ConstView rate, ConstView factor, const auto& tensors) {
        kernels::adagrad(s, f, rate, factor, tensors);
    }
};

struct RmsPropRule {
    using Settings = kernels::RmsProp;
    static constexpr std::string_view name = "rmsprop";
    static std::vector<std::string_view> states(const Settings& f) {
        if (f.momentum == 0) return {"square_mean"};
        return {"square_mean", "velocity"};
    }
    template <class S> static void run(S& s, const Settings& f, ConstView rate, ConstView factor, const auto& tensors) {
        kernels::rmsprop(s, f, rate, factor, tensors);
    }
};

struct LionRule {
    using Settings = kernels::Lion;
    static constexpr std::string_view name = "lion";
    static std::vector<std::string_view> states(const Settings&) { return {"first_moment"}; }
    template <class S> static void run(S& s, const Settings& f, ConstView rate, ConstView factor, const auto& tensors) {
        kernels::lion(s, f, rate, factor, tensors);
    }
};

template <class Rule> class RuleUpdate final : public UpdateOp {
public:
    using Settings = typename Rule::Settings;
    RuleUpdate(const Settings& settings, std::size_t tensors)
        : UpdateOp(tensors, Rule::states(settings).size()), settings_(settings) {}
    std::string_view name() const override { return Rule::name; }
    void run(Stream& stream, const Operands& a) const override {
        kernels::RuleTensors tensors{gradients(a), weights(a), state(a, 0), {}};
        if (Rule::states(settings_).size() > 1) tensors.second = state(a, 1);
        std::visit([&](auto& s) { Rule::run(s, settings_, pace(a), factor(a), tensors); }, stream);
    }

private:
    Settings settings_;
};

template <class Rule> class RuleOptimizer final : public Optimizer {
public:
    using Settings = typename Rule::Settings;
    explicit RuleOptimizer(const Settings& settings) : settings_(settings) {}
    std::vector<std::string_view> states() const override { return Rule::states(settings_); }
    float weight_decay() const override { return settings_.weight_decay; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        Settings settings = settings_;
        settings.weight_decay = alike.weight_decay;
        const ValueId rate = learning_rate(graph, alike.name + ".pace", alike.rate_factor);
        graph.apply(std::make_shared<RuleUpdate<Rule>>(settings, alike.parameters.size()), alike.name,
                    update_inputs(rate, factor, alike.parameters));
    }

private:
    Settings settings_;
};

} // namespace

std::unique_ptr<Optimizer> make_adagrad(const Config& config) {
    return std::make_unique<RuleOptimizer<AdagradRule>>(
        kernels::Adagrad{.epsilon = setting_within(config, optimizer_epsilon, 0, 1),
                         .weight_decay = setting_within(config, optimizer_decay, 0, 1e3)});
}

std::unique_ptr<Optimizer> make_rmsprop(const Config& config) {
    return std::make_unique<RuleOptimizer<RmsPropRule>>(
        kernels::RmsProp{.alpha = setting_within(config, optimizer_alpha, 0, 1),
                         .epsilon = setting_within(config, optimizer_epsilon, 0, 1),
                         .weight_decay = setting_within(config, optimizer_decay, 0, 1e3),
                         .momentum = setting_within(config, optimizer_momentum, 0, 1)});
}

std::unique_ptr<Optimizer> make_lion(const Config& config) {
    return std::make_unique<RuleOptimizer<LionRule>>(
        kernels::Lion{.beta1 = setting_within(config, optimizer_beta1, 0, 1),
                      .beta2 = setting_within(config, optimizer_beta2, 0, 1),
                      .weight_decay = setting_within(config, optimizer_decay, 0, 1e3)});
}

} // namespace tessera
