// SPDX-License-Identifier: Apache-2.0
// Adam (Kingma and Ba 2015) and AdamW, with decoupled weight decay (Loshchilov and Hutter 2019).
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/update_op.hpp"
#include "kernels/update.hpp"

namespace tessera {
namespace {

class AdamUpdate final : public UpdateOp { // keeps the first and the second moment
public:
    AdamUpdate(const kernels::Adam& settings, std::size_t tensors) : UpdateOp(tensors, 2), settings_(settings) {}
    std::string_view name() const override { return "adam"; }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::AdamTensors tensors{gradients(a), weights(a), state(a, 0), state(a, 1), {}};
        std::visit([&](auto& s) { kernels::adam(s, settings_, pace(a), factor(a), tensors); }, stream);
    }

private:
    kernels::Adam settings_;
};

class Adam final : public Optimizer {
public:
    explicit Adam(const kernels::Adam& settings) : settings_(settings) {}
    std::vector<std::string_view> states() const override { return {"first_moment", "second_moment"}; }
    float weight_decay() const override { return settings_.weight_decay; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        const kernels::Adam settings = with(alike.weight_decay);
        const auto of_step = [settings, by = alike.rate_factor](const StepState& state, const View& host) {
            kernels::write_adam_pace(host, settings, static_cast<float>(state.learning_rate * by),
                                     state.step + 1 - state.skipped_steps);
        };
        const ValueId pace = graph.step_input(alike.name + ".pace", {{kernels::adam_pace_count}, DType::f32}, of_step);
        graph.apply(std::make_shared<AdamUpdate>(settings, alike.parameters.size()), alike.name,
                    update_inputs(pace, factor, alike.parameters));
    }

private:
    kernels::Adam with(float weight_decay) const {
        kernels::Adam settings = settings_;
        settings.weight_decay = weight_decay;
        return settings;
    }

    kernels::Adam settings_;
};

} // namespace

std::unique_ptr<Optimizer> make_adam(const Config& config, bool decoupled) {
    return std::make_unique<Adam>(kernels::Adam{.beta1 = setting_within(config, optimizer_beta1, 0, 1),
                                                .beta2 = setting_within(config, optimizer_beta2, 0, 1),
                                                .epsilon = setting_within(config, optimizer_epsilon, 0, 1),
                                                .weight_decay = setting_within(config, optimizer_decay, 0, 1e3),
                                                .decoupled = decoupled});
}

} // namespace tessera
