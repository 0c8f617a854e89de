// SPDX-License-Identifier: Apache-2.0
// Evaluation: one "step" over the validation split, summed in the same kind of tree as a training step; or, where
// states are carried on, several.
#include "core/run/evaluation.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/data/options.hpp"
#include "core/optimizers/weight_average.hpp"
#include "core/run/held_part.hpp"
#include "core/run/host_copy.hpp"
#include "kernels/weight_average.hpp"

#include <algorithm>
#include <deque>
#include <map>

namespace tessera {

Evaluation::Evaluation(const Ground& ground, const Experiment& experiment, const Memory& memory)
    : ground_(ground), experiment_(experiment), every_(ground.config.get(evaluate_every)) {
    if (experiment.evaluation_batches == 0) return;
    const Program& program = experiment.evaluate;
    executor_ = std::make_unique<Executor>(program.layout, program.plan, memory, ground.groups, ground.stream);
    if (!experiment.train.plan.values.empty() && is_of_averages(ground.config)) find_averages(memory);
}

// An average rests as its weight does, so that each rank can put one in the place of the other.
void Evaluation::find_averages(const Memory& memory) {
    const Program& train = experiment_.train;
    for (const ValueId id : train.model.graph.of_kind(ValueKind::optimizer_state)) {
        const std::string& name = train.model.graph.value(id).name;
        if (!is_weight_average(name)) continue;
        const PlannedValue& average = train.plan.value(id);
        averages_.push_back(memory.view(average.memory, average.offset, average.local));
        const Plan& plan = experiment_.evaluate.plan;
        const ValueId weight = experiment_.evaluate.model.graph.named(averaged_weight(name));
        weights_.push_back(view_at_rest(*executor_, plan, weight));
    }
}

void Evaluation::exchange_weights() {
    std::visit([&](auto& stream) { kernels::exchange(stream, weights_, averages_); }, ground_.stream);
}

bool Evaluation::is_of_averages(const Config& config) { return ema_decay(config) > 0 && config.get(evaluate_ema); }

void Evaluation::check_keys(const Config& config) {
    for (const Key<std::int64_t>& key : {evaluate_every, evaluate_batches})
        if (config.get(key) < 0) config.refuse(key.name, "must be at least 0");
    is_of_averages(config);
}

bool Evaluation::due(std::int64_t steps_done, bool last) const {
    return executor_ != nullptr && (last || (every_ > 0 && steps_done % every_ == 0));
}

namespace {

// States that an evaluation carries on itself; those of the model (running statistics) are not among them. What lies in
// their memory is put back afterwards: a training run's own states lie there.
class StatesOfEvaluation {
public:
    StatesOfEvaluation(const Program& program, const Executor& executor) {
        for (const ValueId id : program.model.graph.of_kind(ValueKind::optimizer_state)) {
            if (!is_optimizer_state(program.model.graph.value(id).name)) continue;
            HostCopy& copy = copies_.emplace_back(executor.stream(), executor.view(id));
            copy.load();
            const auto* values = copy.view().as<float>();
            before_.emplace_back(values, values + copy.view().count());
            std::fill_n(copy.view().as<float>(), copy.view().count(), 0.0f);
            copy.store();
        }
    }

    void put_back() {
        for (std::size_t i = 0; i < copies_.size(); ++i) {
            std::ranges::copy(before_[i], copies_[i].view().as<float>());
            copies_[i].store();
        }
    }

private:
    std::deque<HostCopy> copies_;
    std::vector<std::vector<float>> before_;
};

// What a model tells of itself, over the steps of an evaluation.
class ToldSums {
public:
    explicit ToldSums(const Model& model) : model_(model) {
        for (const WeightedLoss& loss : model.losses)
            numbers_[loss.value] = 0;
        for (const ToldValue& told : model.told) {
            numbers_[told.value] = 0;
            if (told.by != no_value) numbers_[told.by] = 0;
        }
        if (model.counted != no_value) numbers_[model.counted] = 0;
        for (const ToldTable& table : model.told_tables)
            tables_[table.value].resize(static_cast<std::size_t>(model.graph.value(table.value).type.shape.count()));
    }

    void add(Stream& stream, const Executor& executor) {
        for (auto& [id, sum] : numbers_)
            sum += number(stream, executor.view(id));
        for (auto& [id, table] : tables_) {
            HostCopy found(stream, executor.view(id));
            found.load();
            for (std::size_t i = 0; i < table.size(); ++i)
                table[i] += static_cast<double>(found.view().as<float>()[i]);
        }
    }

    void fill(EvaluationRecord& record, double samples) {
        const auto mean = [&](ValueId id, ValueId by) {
            if (by == no_value) return numbers_[id] / static_cast<double>(record.units);
            return numbers_[by] > 0 ? numbers_[id] / numbers_[by] : 0;
        };
        for (const WeightedLoss& loss : model_.losses)
            record.loss += loss.weight * mean(loss.value, model_.counted);
        for (const ToldValue& told : model_.told)
            record.told.emplace_back(told.name, mean(told.value, told.by));
        for (const ToldTable& table : model_.told_tables)
            if (const std::vector<double>& found = tables_[table.value]; table.finish)
                table.finish(found, samples, record.told);
            else
                record.tables.push_back({table.name, model_.graph.value(table.value).type.shape[-1], found});
    }

private:
    const Model& model_;
    std::map<ValueId, double> numbers_;
    std::map<ValueId, std::vector<double>> tables_;
};

} // namespace

EvaluationRecord Evaluation::run(std::int64_t steps_done) {
    const FlightRecorder::Scope evaluating(ground_.groups.recorder(), Activity::evaluating,
                                           experiment_.evaluation_batches * experiment_.evaluation_steps);
    const SampleForm& sample = experiment_.sizes.sample;
    Loader loader(ground_.dataset,
                  SampleOrder(order_options(ground_.config, ground_.dataset, Split::validation, experiment_.seed,
                                            experiment_.evaluation_streams())),
                  experiment_.evaluation_loader(),
                  loader_memory(ground_.stream, sample.fields, experiment_.evaluation_loader()));
    const std::int64_t samples =
        experiment_.evaluation_batches * experiment_.sizes.batch * experiment_.evaluation_steps;
    EvaluationRecord record{.step = steps_done, .unit = sample.unit, .units = samples * sample.units};
    ToldSums sums(experiment_.evaluate.model);
    exchange_weights();
    StatesOfEvaluation states(experiment_.evaluate, *executor_);
    StepState state{.seed = experiment_.seed};
    executor_->prepare(state);
    for (; state.step < experiment_.evaluation_steps; ++state.step) {
        executor_->run_micro_batches(state, experiment_.sizes.batch,
                                     [&] { loader.next(ground_.stream, executor_->batch()); });
        executor_->update(state);
        sums.add(ground_.stream, *executor_);
    }
    states.put_back();
    exchange_weights();
    sums.fill(record, static_cast<double>(samples));
    return record;
}

std::int64_t Evaluation::allocated_bytes() const {
    if (executor_ == nullptr) return 0;
    return Loader::buffer_bytes(experiment_.sizes.sample.fields, experiment_.evaluation_loader());
}

} // namespace tessera
