// SPDX-License-Identifier: Apache-2.0
// Evaluation: one "step" over the validation split, summed in the same kind of tree as a training step; or, where
// states are carried on, several.
#include "core/run/evaluation.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/data/options.hpp"
#include "core/evaluation_metrics.hpp"
#include "core/optimizers/weight_average.hpp"
#include "core/run/bits_per_byte.hpp"
#include "core/run/held_part.hpp"
#include "core/run/host_copy.hpp"
#include "kernels/weight_average.hpp"

#include <algorithm>
#include <deque>

namespace tessera {

Evaluation::Evaluation(const Ground& ground, const Experiment& experiment, const Memory& memory)
    : ground_(ground), experiment_(experiment), every_(ground.config.get(evaluate_every)) {
    if (experiment.evaluation_batches == 0) return;
    SampleOrderOptions options = order_options(ground.config, ground.dataset, Split::validation, experiment.seed,
                                               experiment.evaluation_streams());
    if (experiment.evaluate_sources.empty()) {
        const SampleOrder order(options);
        sources_.push_back({});
        add_pass(experiment.evaluate, experiment.evaluation_loader(), order, memory);
        if (experiment.rest_rows > 0) add_pass(experiment.evaluate_rest, experiment.rest_loader(), order, memory);
        count_bytes(order);
    }
    for (const SourceEvaluation& part : experiment.evaluate_sources) {
        options.sources = {part.source};
        const SampleOrder order(options);
        sources_.push_back({.name = part.source.name});
        add_pass(part.whole, experiment.loader_for(part.whole, part.rows, part.batches, 0), order, memory);
        if (part.rest_rows > 0)
            add_pass(part.rest, experiment.loader_for(part.rest, part.rest_rows, 1, part.batches * part.rows), order,
                     memory);
        count_bytes(order);
    }
    if (!experiment.train.plan.values.empty() && is_of_averages(ground.config)) find_averages(memory);
}

// Of the source that came last.
void Evaluation::add_pass(const Program& program, const LoaderOptions& loader, const SampleOrder& order,
                          const Memory& memory) {
    passes_.push_back({program,
                       std::make_unique<Executor>(program.layout, program.plan, memory, ground_.groups, ground_.stream),
                       loader, order, sources_.size() - 1});
    sources_.back().samples += passes_.back().samples();
}

void Evaluation::count_bytes(const SampleOrder& order) {
    const std::vector<std::string> metrics = ground_.config.get(metrics_evaluate);
    if (std::ranges::find(metrics, bits_per_byte_name) == metrics.end()) return;
    Source& source = sources_.back();
    source.bytes = text_bytes(ground_.dataset, order, source.samples, ground_.groups.all(), ground_.host);
}

// An average rests as its weight does, so that each rank can put one in the place of the other.
void Evaluation::find_averages(const Memory& memory) {
    const Program& train = experiment_.train;
    for (const ValueId id : train.model.graph.of_kind(ValueKind::optimizer_state)) {
        const std::string& name = train.model.graph.value(id).name;
        if (!is_weight_average(name)) continue;
        const PlannedValue& average = train.plan.value(id);
        averages_.push_back(memory.view(average.memory, average.offset, average.local));
        const Pass& pass = passes_.front();
        const ValueId weight = pass.program.model.graph.named(averaged_weight(name));
        weights_.push_back(view_at_rest(*pass.executor, pass.program.plan, weight));
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
    return !passes_.empty() && (last || (every_ > 0 && steps_done % every_ == 0));
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

// What a model tells of itself, over the steps of an evaluation. Another model of the same config has the same values
// in the same places.
class ToldSums {
public:
    explicit ToldSums(const Model& model)
        : model_(model), numbers_(numbers_of(model).size()), tables_(model.told_tables.size()) {}

    void add(Stream& stream, const Executor& executor, const Model& model) {
        const std::vector<ValueId> ids = numbers_of(model);
        for (std::size_t i = 0; i < ids.size(); ++i)
            if (ids[i] != no_value) numbers_[i] += number(stream, executor.view(ids[i]));
        for (std::size_t i = 0; i < tables_.size(); ++i) {
            HostCopy found(stream, executor.view(model.told_tables[i].value));
            found.load();
            const auto count = static_cast<std::size_t>(found.view().count());
            const std::size_t begin = model.told_tables[i].of_samples ? tables_[i].size() : 0;
            tables_[i].resize(begin + count);
            for (std::size_t at = 0; at < count; ++at)
                tables_[i][begin + at] += static_cast<double>(found.view().as<float>()[at]);
        }
    }

    void fill(EvaluationRecord& record, double samples) const {
        std::size_t next = 1;
        const auto mean = [&](double sum, bool of_counted, double counted) {
            if (!of_counted) return sum / static_cast<double>(record.units);
            return counted > 0 ? sum / counted : 0;
        };
        for (const WeightedLoss& loss : model_.losses)
            record.loss += loss.weight * mean(numbers_[next++], model_.counted != no_value, numbers_[0]);
        for (const ToldValue& told : model_.told) {
            record.told.emplace_back(told.name, mean(numbers_[next], told.by != no_value, numbers_[next + 1]));
            next += 2;
        }
        for (std::size_t i = 0; i < tables_.size(); ++i)
            if (const ToldTable& table = model_.told_tables[i]; table.finish)
                table.finish(tables_[i], samples, record.told);
            else
                record.tables.push_back({table.name, model_.graph.value(table.value).type.shape[-1], tables_[i]});
    }

private:
    // What the losses are the mean over, the losses, and each told value with what it is the mean over.
    static std::vector<ValueId> numbers_of(const Model& model) {
        std::vector<ValueId> ids = {model.counted};
        for (const WeightedLoss& loss : model.losses)
            ids.push_back(loss.value);
        for (const ToldValue& told : model.told)
            ids.insert(ids.end(), {told.value, told.by});
        return ids;
    }

    const Model& model_;
    std::vector<double> numbers_; // as numbers_of() has them
    std::vector<std::vector<double>> tables_;
};

} // namespace

void Evaluation::evaluate(Pass& pass, const std::function<void()>& after_step) {
    Loader loader(ground_.dataset, pass.order, pass.loader,
                  loader_memory(ground_.stream, experiment_.sizes.sample.fields, pass.loader));
    StepState state{.seed = experiment_.seed};
    Executor& executor = *pass.executor;
    executor.prepare(state);
    for (; state.step < pass.loader.end_step; ++state.step) {
        executor.run_micro_batches(state, pass.loader.micro_batch_size,
                                   [&] { loader.next(ground_.stream, executor.batch()); });
        executor.update(state);
        after_step();
    }
}

namespace {

void fill_with(const ToldSums& sums, std::int64_t samples, std::int64_t bytes, EvaluationRecord& record) {
    sums.fill(record, static_cast<double>(samples));
    if (bytes > 0) record.told.emplace_back(bits_per_byte_name, bits_per_byte(record.loss, record.units, bytes));
}

} // namespace

EvaluationRecord Evaluation::run(std::int64_t steps_done) {
    std::int64_t batches = 0, samples = 0, bytes = 0;
    for (const Pass& pass : passes_)
        batches += pass.batches();
    const FlightRecorder::Scope evaluating(ground_.groups.recorder(), Activity::evaluating, batches);
    ToldSums all(passes_.front().program.model);
    std::vector<ToldSums> of_sources(sources_.size(), all);
    exchange_weights();
    StatesOfEvaluation states(passes_.front().program, *passes_.front().executor);
    for (Pass& pass : passes_)
        evaluate(pass, [&] {
            for (ToldSums* sums : {&all, &of_sources[pass.source]})
                sums->add(ground_.stream, *pass.executor, pass.program.model);
        });
    states.put_back();
    exchange_weights();
    const SampleForm& sample = experiment_.sizes.sample;
    EvaluationRecord record{.step = steps_done, .unit = sample.unit};
    for (std::size_t i = 0; i < sources_.size(); ++i) {
        const Source& source = sources_[i];
        samples += source.samples;
        bytes += source.bytes;
        if (source.name.empty()) continue;
        EvaluationRecord own{.units = source.samples * sample.units};
        fill_with(of_sources[i], source.samples, source.bytes, own);
        record.sources.push_back({source.name, own.loss, own.told, own.units});
    }
    record.units = samples * sample.units;
    fill_with(all, samples, bytes, record);
    return record;
}

std::int64_t Evaluation::allocated_bytes() const {
    std::int64_t most = 0; // one loader at a time
    for (const Pass& pass : passes_)
        most = std::max(most, Loader::buffer_bytes(experiment_.sizes.sample.fields, pass.loader));
    return most;
}

} // namespace tessera
