// SPDX-License-Identifier: Apache-2.0
// w -= learning rate * sign(gradient) (Bernstein et al. 2018): an optimizer that keeps nothing, so that nothing of it
// is planned, sharded or saved. ZeRO and the rest come with UpdateOp.
#include "parts.hpp"

#include "core/optimizers/update_op.hpp"
#include "kernels/error.hpp"

#include <cmath>

namespace {

using namespace tessera;

class SignUpdate final : public UpdateOp {
public:
    explicit SignUpdate(std::size_t tensors) : UpdateOp(tensors, 0) {}
    std::string_view name() const override { return "sign_descent"; }
    void run(Stream& stream, const Operands& a) const override {
        if (!std::holds_alternative<CpuStream>(stream))
            throw ConfigError("sign_descent runs on CPUs: run.device = \"cpu\"");
        const float rate = *pace(a).as<float>();
        if (*factor(a).as<float>() == 0) return; // a step that is skipped
        for (std::size_t tensor = 0; tensor < weights(a).size(); ++tensor) {
            const auto* gradient = gradients(a)[tensor].as<float>();
            auto* weight = weights(a)[tensor].as<float>();
            const std::int64_t count = weights(a)[tensor].count();
#pragma omp parallel for
            for (std::int64_t i = 0; i < count; ++i)
                weight[i] -= gradient[i] == 0 ? 0 : std::copysign(rate, gradient[i]);
        }
    }
};

class SignDescent final : public Optimizer {
public:
    std::vector<std::string_view> states() const override { return {}; }
    float weight_decay() const override { return 0; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        const ValueId rate = learning_rate(graph, alike.name + ".pace", alike.rate_factor);
        graph.apply(std::make_shared<SignUpdate>(alike.parameters.size()), alike.name,
                    update_inputs(rate, factor, alike.parameters));
    }
};

} // namespace

OptimizerType sign_descent() {
    return {"sign_descent",
            [](const Config&) -> std::unique_ptr<Optimizer> { return std::make_unique<SignDescent>(); }};
}
