// SPDX-License-Identifier: Apache-2.0
// Evaluation: one "step" over the validation split, summed in the same kind of tree as a training step.
#include "core/run/evaluation.hpp"

#include "core/data/options.hpp"
#include "core/run/host_copy.hpp"

namespace tessera {

Evaluation::Evaluation(const Ground& ground, const Experiment& experiment, const Memory& memory)
    : ground_(ground), experiment_(experiment), every_(ground.config.get(evaluate_every)) {
    if (experiment.evaluation_batches == 0) return;
    const Program& program = experiment.evaluate;
    executor_ = std::make_unique<Executor>(program.layout, program.plan, memory, ground.groups, ground.stream);
}

void Evaluation::check_keys(const Config& config) {
    for (const Key<std::int64_t>& key : {evaluate_every, evaluate_batches})
        if (config.get(key) < 0) config.refuse(key.name, "must be at least 0");
}

bool Evaluation::due(std::int64_t steps_done, bool last) const {
    return executor_ != nullptr && (last || (every_ > 0 && steps_done % every_ == 0));
}

EvaluationRecord Evaluation::run(std::int64_t steps_done) {
    const FlightRecorder::Scope evaluating(ground_.groups.recorder(), Activity::evaluating,
                                           experiment_.evaluation_batches);
    const SampleForm& sample = experiment_.sizes.sample;
    Loader loader(ground_.dataset,
                  SampleOrder(order_options(ground_.config, ground_.dataset, Split::validation, experiment_.seed)),
                  experiment_.evaluation_loader(),
                  loader_memory(ground_.stream, sample.fields, experiment_.evaluation_loader()));
    const StepState state{.seed = experiment_.seed};
    executor_->prepare(state);
    executor_->run_micro_batches(state, experiment_.sizes.batch,
                                 [&] { loader.next(ground_.stream, executor_->batch()); });
    executor_->update(state);
    const Model& model = experiment_.evaluate.model;
    const std::int64_t units = experiment_.evaluation_batches * experiment_.sizes.batch * sample.units;
    const auto mean = [&](ValueId id, ValueId by) {
        const double sum = number(ground_.stream, executor_->view(id));
        if (by == no_value) return sum / static_cast<double>(units);
        const double counted = number(ground_.stream, executor_->view(by));
        return counted > 0 ? sum / counted : 0;
    };
    EvaluationRecord record{.step = steps_done, .unit = sample.unit, .units = units};
    for (const WeightedLoss& loss : model.losses)
        record.loss += loss.weight * mean(loss.value, model.counted);
    for (const ToldValue& told : model.told)
        record.told.emplace_back(told.name, mean(told.value, told.by));
    return record;
}

std::int64_t Evaluation::allocated_bytes() const {
    if (executor_ == nullptr) return 0;
    return Loader::buffer_bytes(experiment_.sizes.sample.fields, experiment_.evaluation_loader());
}

} // namespace tessera
