// SPDX-License-Identifier: Apache-2.0
// A step's numbers, read from where the step left them.
#include "core/run/step_numbers.hpp"

#include "core/run/diverged_error.hpp"
#include "core/run/host_copy.hpp"

#include <array>
#include <cmath>
#include <cstdlib>
#include <fmt/ranges.h>

namespace tessera {

namespace {
constexpr const char* odd_steps = "guard.odd_in_a_row";
}

StepNumbers::StepNumbers(const Experiment& experiment, const Executor& executor, const Kept& kept)
    : experiment_(experiment), executor_(executor) {
    restart();
    if (const auto found = kept.find(odd_steps); found != kept.end() && experiment.guard)
        odd_in_a_row_ = std::atoll(found->second.c_str());
}

StepNumbers::Kept StepNumbers::to_keep() const {
    if (odd_in_a_row_ == 0) return {};
    return {{odd_steps, fmt::format("{}", odd_in_a_row_)}};
}

float StepNumbers::number_of(ValueId id) const { return number(executor_.stream(), executor_.view(id)); }

double StepNumbers::mean_of(ValueId sum, ValueId by) const {
    const double total = number_of(sum);
    if (by == no_value) return total / static_cast<double>(experiment_.sizes.units_per_step);
    const double counted = number_of(by);
    return counted > 0 ? total / counted : 0;
}

void StepNumbers::restart() {
    const auto& loss_scale = experiment_.train.model.loss_scale;
    const auto& guard = experiment_.guard;
    if (loss_scale) loss_scale_ = number_of(loss_scale->scale);
    skipped_steps_ = 0;
    if (loss_scale) skipped_steps_ += static_cast<std::int64_t>(number_of(loss_scale->skipped_steps));
    if (guard) skipped_steps_ += static_cast<std::int64_t>(number_of(guard->skipped_steps));
}

void StepNumbers::end(const std::string& why) {
    diverged_ = true;
    throw DivergedError(why);
}

// What the guard found, as a sentence; and whether training may go on.
void StepNumbers::judge(StepRecord& record) {
    const Guard& guard = *experiment_.guard;
    HostCopy verdict(executor_.stream(), executor_.view(guard.verdict));
    verdict.load();
    const float* found = verdict.view().as<float>();
    const int wrong = static_cast<int>(found[0]);
    if (wrong == 0) {
        odd_in_a_row_ = 0;
        return;
    }
    std::vector<std::string> what;
    const auto add = [&](int odd, std::string_view name, double value, float score) {
        what.push_back(odd == kernels::loss_not_finite || odd == kernels::norm_not_finite
                           ? fmt::format("the {} is {}", name, std::isnan(value) ? "not a number" : "infinite")
                           : fmt::format("the {} {:.4g} is {:.1f} standard deviations above the mean of the last {} "
                                         "good steps",
                                         name, value, score, guard.window));
    };
    for (const int odd : {kernels::loss_not_finite, kernels::loss_outlier})
        if (wrong & odd) add(odd, "loss", record.loss, found[1]);
    for (const int odd : {kernels::norm_not_finite, kernels::norm_outlier})
        if (wrong & odd) add(odd, "gradient norm", record.grad_norm, found[2]);
    const BatchRamp& ramp = experiment_.ramp;
    record.divergence = fmt::format("{}; its samples are numbers {} to {} of the order", fmt::join(what, ", "),
                                    ramp.samples_before(record.step - 1), ramp.samples_before(record.step) - 1);
    if (guard.policy == GuardPolicy::stop) end(fmt::format("diverged at step {}: {}", record.step, record.divergence));
    if (++odd_in_a_row_ >= guard.most_in_a_row)
        end(fmt::format("diverged at step {}, odd steps in a row: {} ({}): {}", record.step, odd_in_a_row_,
                        guard_most.name, record.divergence));
}

void StepNumbers::read_routing(StepRecord& record, double units) const {
    const Model& model = experiment_.train.model;
    if (model.routings.empty()) return;
    std::array<double, 3> sums{};
    for (const ValueId id : model.routings) {
        HostCopy losses(executor_.stream(), executor_.view(id));
        losses.load();
        for (std::size_t i = 0; i < sums.size(); ++i)
            sums[i] += losses.view().as<float>()[i];
    }
    const double seen = units * static_cast<double>(model.routings.size());
    record.balance_loss = sums[0] / seen;
    record.z_loss = sums[1] / seen;
    record.dropped_fraction = sums[2] / seen / static_cast<double>(model.choices);
}

void StepNumbers::read(StepRecord& record) {
    const Model& model = experiment_.train.model;
    const auto units = static_cast<double>(experiment_.sizes.units_per_step);
    for (const WeightedLoss& loss : model.losses)
        record.loss += loss.weight * mean_of(loss.value, model.counted);
    for (const ToldValue& told : model.told)
        record.told.emplace_back(told.name, mean_of(told.value, told.by));
    read_routing(record, units);
    record.grad_norm = number_of(experiment_.gradient_norm);
    record.loss_scale = loss_scale_;
    const std::int64_t skipped_before = skipped_steps_;
    restart();
    if (loss_scale_ >= 0 || experiment_.guard) record.skipped_steps = skipped_steps_;
    if (loss_scale_ >= 0 && loss_scale_ < 1)
        end(fmt::format("diverged at step {}: in f16 the gradients are not finite at any loss scale down "
                        "to 1 (skipped steps: {}); use a lower learning rate, or bf16",
                        record.step, skipped_steps_));
    if (experiment_.guard) return judge(record);
    if (skipped_steps_ > skipped_before) return;
    if (!std::isfinite(record.loss) || !std::isfinite(record.grad_norm))
        end(fmt::format("diverged at step {}: loss {}, gradient norm {}", record.step, record.loss, record.grad_norm));
}

} // namespace tessera
