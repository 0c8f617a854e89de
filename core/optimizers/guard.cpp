// SPDX-License-Identifier: Apache-2.0
// Keys, states and the node of the guard.
#include "core/optimizers/guard.hpp"

#include "kernels/nearest_name.hpp"

#include <fmt/core.h>

namespace tessera {
namespace {

class JudgeStep final : public Op { // loss, norm, factor, losses, norms, good steps, skipped steps -> kept, verdict
public:
    explicit JudgeStep(const kernels::DivergenceLimits& limits) : limits_(limits) {}
    std::string_view name() const override { return "judge_step"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override {
        return {{{}, DType::f32}, {{kernels::divergence_verdict_count}, DType::f32}};
    }
    std::vector<int> writes() const override { return {3, 4, 5, 6}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::judge_step(s, a.inputs[0], a.inputs[1], a.inputs[2], limits_,
                                    {a.inputs[3], a.inputs[4], a.inputs[5], a.inputs[6]}, a.outputs[0], a.outputs[1]);
            },
            stream);
    }

private:
    kernels::DivergenceLimits limits_;
};

GuardPolicy policy_of(const Config& config) {
    const std::string name = config.get(guard_policy);
    if (name == "stop") return GuardPolicy::stop;
    if (name == "skip") return GuardPolicy::skip;
    if (name == "rollback") return GuardPolicy::rollback;
    config.refuse(guard_policy.name, no_such_name("policy of the guard", name, {"rollback", "skip", "stop"}));
}

std::int64_t within(const Config& config, const Key<std::int64_t>& key, std::int64_t least, std::int64_t most) {
    const std::int64_t value = config.get(key);
    if (value < least || value > most) config.refuse(key.name, fmt::format("expected {} to {}", least, most));
    return value;
}

} // namespace

std::optional<Guard> append_guard(Graph& graph, const Config& config, bool scaled) {
    Guard guard;
    guard.policy = policy_of(config);
    const double z_score = config.get(guard_z_score);
    if (!(z_score == 0 || (z_score >= 1 && z_score <= 1e6)))
        config.refuse(guard_z_score.name, "expected 1 to 1e6, or 0 for none");
    guard.limits = {.z_score = static_cast<float>(z_score), .scaled = scaled};
    guard.window = within(config, guard_window, 8, 65536);
    guard.most_in_a_row = within(config, guard_most, 1, 1'000'000);
    if (guard.policy == GuardPolicy::stop && z_score == 0) return std::nullopt;
    // A run that is resumed with another window fills a new one.
    const auto of_window = [&](std::string_view what) {
        return fmt::format("optimizer.guard_{}.{}", what, guard.window);
    };
    guard.losses = graph.optimizer_state(of_window("losses"), {guard.window}, 0);
    guard.norms = graph.optimizer_state(of_window("norms"), {guard.window}, 0);
    guard.good_steps = graph.optimizer_state(of_window("good_steps"), {}, 0);
    guard.skipped_steps = graph.optimizer_state(std::string(guard_skipped_steps), {}, 0);
    return guard;
}

ValueId append_judgement(Graph& graph, Guard& guard, ValueId loss, ValueId norm, ValueId factor) {
    const std::vector<ValueId> found =
        graph.apply(std::make_shared<JudgeStep>(guard.limits), "guard",
                    {loss, norm, factor, guard.losses, guard.norms, guard.good_steps, guard.skipped_steps});
    guard.verdict = found[1];
    graph.keep(guard.verdict);
    return found[0];
}

} // namespace tessera
