// SPDX-License-Identifier: Apache-2.0
// A step's numbers, read from where the step left them.
#include "core/run/step_numbers.hpp"

#include "core/run/host_copy.hpp"
#include "kernels/error.hpp"

#include <array>
#include <cmath>
#include <fmt/core.h>

namespace tessera {

StepNumbers::StepNumbers(const Experiment& experiment, const Executor& executor)
    : experiment_(experiment), executor_(executor) {
    read_loss_scale();
}

float StepNumbers::number_of(ValueId id) const { return number(executor_.stream(), executor_.view(id)); }

void StepNumbers::read_loss_scale() {
    const auto& loss_scale = experiment_.train.model.loss_scale;
    if (!loss_scale) return;
    loss_scale_ = number_of(loss_scale->scale);
    skipped_steps_ = static_cast<std::int64_t>(number_of(loss_scale->skipped_steps));
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
        record.loss += loss.weight * (number_of(loss.value) / units);
    for (const ToldValue& told : model.told)
        record.told.emplace_back(told.name, number_of(told.value) / units);
    read_routing(record, units);
    record.grad_norm = number_of(experiment_.gradient_norm);
    record.loss_scale = loss_scale_;
    const std::int64_t skipped_before = skipped_steps_;
    read_loss_scale();
    if (loss_scale_ >= 0) record.skipped_steps = skipped_steps_;
    if (loss_scale_ >= 0 && loss_scale_ < 1)
        throw SystemError(fmt::format("diverged at step {}: in f16 the gradients are not finite at any loss scale down "
                                      "to 1 (skipped steps: {}); use a lower learning rate, or bf16",
                                      record.step, skipped_steps_));
    if (skipped_steps_ > skipped_before) return;
    if (!std::isfinite(record.loss) || !std::isfinite(record.grad_norm))
        throw SystemError(
            fmt::format("diverged at step {}: loss {}, gradient norm {}", record.step, record.loss, record.grad_norm));
}

} // namespace tessera
