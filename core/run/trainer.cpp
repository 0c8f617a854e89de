// SPDX-License-Identifier: Apache-2.0
// The training loop, on one page.
#include "core/run/trainer.hpp"

#include "core/data/options.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/run/source_counts.hpp"
#include "core/watch/deadlines.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/core.h>

namespace tessera {

bool Trainer::train() {
    if (watch_.waits() && evaluate(first_step_) && saver_.due(first_step_, true)) { // so that it is not put off again
        save(first_step_, false, true);
        settle_saves(true);
    }
    if (rollback_.due(first_step_)) rollback_.keep(first_step_, numbers_.to_keep());
    const std::int64_t end = std::min(experiment_.steps, experiment_.stage.end_step);
    for (std::int64_t step = first_step_; step < end && !watch_.stops(); ++step) {
        const std::int64_t done = step + 1;
        trace_.begin(done);
        train_step(step);
        steps_done_ = done;
        bool last = done == experiment_.steps;
        if (audit_.due(done) && audit_.run(done)) numbers_.restart();
        Request request = stop_.anywhere(ground_.groups.all(), ground_.host);
        if (evaluation_.due(done, last)) {
            if (request == Request::stop && !last) {
                watch_.put_off(); // it may take long
            } else {
                last |= evaluate(done);
                request = std::max(request, stop_.anywhere(ground_.groups.all(), ground_.host));
            }
        }
        const bool stop = request == Request::stop && !last, next = done == end && !last, leaves = stop || last || next;
        if (rollback_.due(done)) rollback_.keep(done, numbers_.to_keep());
        if (request != Request::none || next || saver_.due(done, last)) save(done, stop || next, last);
        settle_saves(leaves);
        trace_.end(done, leaves);
        if (stop) return false;
    }
    return true;
}

void Trainer::train_step(std::int64_t step) {
    const FlightRecorder::StepScope recorded(ground_.groups.recorder(), step);
    const StepState state{experiment_.seed, step, 0, schedule_.rate(step) * watch_.rate_factor(),
                          numbers_.skipped_steps()};
    const auto next_batch = [&] { loader_.next(ground_.stream, executor_.batch()); };
    std::string fault;
    if (repeat_.due(step)) {
        fault = repeat_.run(state, next_batch);
    } else {
        executor_.prepare(state);
        executor_.run_micro_batches(state, experiment_.batch.micro_batch, next_batch);
    }
    executor_.update(state);
    record_step(step, state.learning_rate, std::move(fault));
}

void Trainer::record_step(std::int64_t step, double rate, std::string fault) {
    ground_.groups.wait(ground_.stream);
    StepRecord record{.step = step + 1,
                      .steps = experiment_.steps,
                      .learning_rate = rate,
                      .fault = std::move(fault),
                      .unit = experiment_.sizes.sample.unit,
                      .units = experiment_.ramp.samples_before(step + 1) * experiment_.sizes.sample.units};
    read_numbers(record);
    throughput_.measure(record,
                        {loader_.seconds_waited(), executor_.seconds_waited(), executor_.seconds_waited_for_weights()});
    if (metrics_ != nullptr) metrics_->step(record);
    if (!record.divergence.empty() && experiment_.guard->policy == GuardPolicy::rollback) roll_back(record);
}

// Where a run diverges, all ranks throw together, and what is still being saved was good.
void Trainer::read_numbers(StepRecord& record) {
    try {
        numbers_.read(record);
    } catch (const SystemError&) {
        if (numbers_.diverged()) saver_.settle(true);
        throw;
    }
}

void Trainer::roll_back(const StepRecord& record) {
    const FlightRecorder::Scope loading(ground_.groups.recorder(), Activity::saving);
    const RollbackRecord gone_back = rollback_.go_back(record.step, record.divergence);
    if (metrics_ != nullptr) metrics_->rollback(gone_back);
    numbers_.restart();
    watch_.restart();
    throughput_.restart();
}

bool Trainer::evaluate(std::int64_t steps_done) {
    EvaluationRecord record = evaluation_.run(steps_done);
    record.note = watch_.see(steps_done, record.loss);
    if (metrics_ != nullptr) metrics_->evaluation(record);
    throughput_.restart(); // the next step's time does not include this
    return watch_.stops();
}

void Trainer::save(std::int64_t steps_done, bool stop, bool last) {
    saver_.save(steps_done, stop || last, numbers_.to_keep());
    if (stop) rollback_.save_copy(steps_done);
    throughput_.restart();
}

void Trainer::settle_saves(bool wait) {
    for (const CheckpointRecord& record : saver_.settle(wait))
        if (metrics_ != nullptr) metrics_->checkpoint(record);
}

void Trainer::report(Log& log) {
    throughput_.report(log);
    const auto counts = count_sources(ground_.config, ground_.dataset, experiment_, steps_done_);
    if (counts.empty() || metrics_ == nullptr) return;
    metrics_->sources(steps_done_, counts);
    log.info(text_of(counts, ground_.dataset.form()));
}

void Trainer::check_keys(const Config& config, const Experiment& experiment) {
    Schedule(config, config.get(optimizer_rate), experiment.steps);
    SampleOrder({.kind = config.get(data_order), .seed = 1, .samples = 1, .window = 1});
    Saver::check_keys(config);
    Rollback::check_keys(config);
    if (experiment.ramp.grows() && config.get(checkpoint_interval) < 0)
        config.refuse(checkpoint_interval.name, "each stage of training.batch_size_ramp ends with a checkpoint");
    Evaluation::check_keys(config);
    ValidationWatch::check_keys(config, experiment);
    ReplicaAudit::check_keys(config);
    StepRepeat::check_keys(config);
    Metrics::log_every(config);
    Deadlines::check_keys(config);
    StepTrace::check_keys(config);
    config.get(run_cuda_graph);
    config.get(run_step_timeout); // the watchdog's
    config.get(run_check_collectives);
    Log::wants_color(config);
}

Trainer::Trainer(const Ground& ground, const Experiment& experiment, StopRequest& stop, Log& log,
                 const std::filesystem::path& folder)
    : ground_(ground), experiment_(experiment),
      memory_(experiment.memory, experiment.train.layout, ground.groups, ground.stream),
      executor_(experiment.train.layout, experiment.train.plan, memory_, ground.groups, ground.stream,
                ground.config.get(run_cuda_graph)),
      evaluation_(ground, experiment, memory_), saver_(ground, experiment, executor_, log, folder),
      rollback_(ground, experiment, executor_, saver_, log, folder), audit_(ground, experiment, executor_, log),
      repeat_(ground, experiment, executor_),
      schedule_(ground.config, ground.config.get(optimizer_rate), experiment.steps), stop_(stop),
      first_step_(saver_.start_or_resume()), numbers_(experiment, executor_, saver_.metadata()),
      watch_(ground.config, experiment, executor_),
      loader_(ground.dataset,
              SampleOrder(
                  order_options(ground.config, ground.dataset, Split::train, experiment.seed, experiment.batch.global)),
              experiment.train_loader(first_step_),
              loader_memory(ground.stream, experiment.sizes.sample.fields, experiment.train_loader(first_step_))),
      throughput_(experiment, ground), trace_(ground, experiment, log, folder), allocated_(memory_.allocated()) {
    if (ground.groups.all().rank() == 0) metrics_ = std::make_unique<Metrics>(log, ground.config, folder, first_step_);
    for (const SkippedRecords& skipped : ground.dataset.skipped())
        if (metrics_) metrics_->skipped(first_step_, skipped.kind, skipped.count, skipped.first);
    allocated_[MemoryKind::data] =
        loader_.allocated_bytes() + evaluation_.allocated_bytes() + repeat_.allocated_bytes();
    allocated_[MemoryKind::checkpoint] = saver_.allocated_bytes() + rollback_.allocated_bytes();
}

} // namespace tessera
