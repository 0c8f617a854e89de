// SPDX-License-Identifier: Apache-2.0
// Two runs step by step; where they part, micro-batch by micro-batch and value by value.
#include "core/run/verification.hpp"

#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/run/host_copy.hpp"
#include "core/run/step_numbers.hpp"
#include "core/run/weights.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace tessera {

std::vector<std::string> words_for_one_rank(const Batch& batch) {
    std::vector<std::string> words;
    for (const KeyInfo& key : known_keys())
        if (key.name.starts_with("parallelism.")) words.push_back(fmt::format("{}={}", key.name, key.fallback));
    words.push_back(fmt::format("{}=none", training_recompute.name));
    words.push_back(fmt::format("{}=true", run_reproducible.name));
    words.push_back(fmt::format("{}={}", training_global_batch.name, batch.global));
    words.push_back(fmt::format("{}={}", training_local_batch.name, batch.micro_batch));
    words.push_back(fmt::format("{}=0", training_accumulation.name));
    words.push_back(fmt::format("{}=[]", training_batch_ramp.name));
    return words;
}

struct Verification::Run {
    Run(const Ground& ground, Groups& ranks, const Experiment& what)
        : experiment(what), program(what.train), groups(ranks),
          memory(what.memory, program.layout, ranks, ground.stream),
          executor(program.layout, program.plan, memory, ranks, ground.stream) {
        initialize_weights(program, executor, experiment.seed);
        initialize_states(program, executor);
    }

    const Experiment& experiment;
    const Program& program;
    Groups& groups;
    Memory memory;
    Executor executor;
};

Verification::Verification(const Ground& ground, const Experiment& one, const Experiment& many)
    : ground_(ground), order_(order_options(ground.config, ground.dataset, Split::train, many.seed, many.batch.global)),
      schedule_(ground.config, ground.config.get(optimizer_rate), many.steps),
      tolerances_(tolerances_of(many.train.layout, ground.config.get(training_dtype))), alone_(one.train.layout.mesh),
      one_(std::make_unique<Run>(ground, alone_, one)), many_(std::make_unique<Run>(ground, ground.groups, many)),
      twins_(many.train, one.train), recording_(many.train, twins_, tolerances_) {
    const Graph& graph = one.train.model.graph;
    for (std::size_t i = 0; i < graph.values().size(); ++i) {
        const Value& value = graph.values()[i];
        const auto id = static_cast<ValueId>(i);
        if (value.kind == ValueKind::parameter || value.kind == ValueKind::optimizer_state) weights_.push_back(id);
        if (value.accumulated) (value.gradient_of == no_value ? losses_ : gradients_).push_back(id);
    }
}

Verification::~Verification() = default;

StepState Verification::state_of(std::int64_t number) const {
    return {one_->experiment.seed, number, 0, schedule_.rate(number),
            StepNumbers(one_->experiment, one_->executor).skipped_steps()};
}

// `on_batch` is told the place of each micro-batch in the rank's share, when its inputs are there.
void Verification::run_micro_batches(Run& run, const StepState& state,
                                     const std::function<void(std::int64_t)>& on_batch) {
    LoaderOptions options = run.experiment.train_loader(state.step);
    options.end_step = state.step + 1;
    Loader loader(ground_.dataset, order_, options,
                  loader_memory(ground_.stream, run.experiment.sizes.sample.fields, options));
    std::int64_t place = 0;
    run.executor.prepare(state);
    run.executor.run_micro_batches(state, run.experiment.batch.micro_batch, [&] {
        loader.next(ground_.stream, run.executor.batch());
        if (on_batch) on_batch(place++);
    });
    run.groups.wait(ground_.stream);
}

std::string Verification::start() { return compare(weights_, 0, "at the start").fault; }

Verification::Step Verification::step(std::int64_t number) {
    const Model& model = one_->program.model;
    const StepState state = state_of(number);
    run_micro_batches(*many_, state);
    run_micro_batches(*one_, state);
    const std::string when = fmt::format("step {}, sum over micro-batches and ranks", number + 1);
    const Compared loss = compare(losses_, tolerances_.loss, when);
    const Compared gradients = compare(gradients_, tolerances_.sum, when);
    const auto number_of = [&](ValueId id) { return tessera::number(ground_.stream, one_->executor.view(id)); };
    const double counted = model.counted != no_value ? number_of(model.counted)
                                                     : static_cast<double>(one_->experiment.sizes.units_per_step);
    Step step;
    for (const WeightedLoss& one : model.losses)
        if (counted > 0) step.loss += one.weight * number_of(one.value) / counted;
    step.loss_difference = loss.distance;
    step.gradient_difference = gradients.distance;
    step.fault = loss.fault.empty() ? gradients.fault : loss.fault;
    if (step.fault.empty())
        update(state, step);
    else if (const std::string first = locate(state); !first.empty())
        step.fault = first;
    else
        step.fault += fmt::format("\n  every micro-batch agrees, the values of the last within {:.2g}",
                                  most_of(recording_.largest()));
    return step;
}

// From equal gradients. What adds up to their norm is summed in other pieces where they are cut otherwise: only the
// norm itself is compared.
void Verification::update(const StepState& state, Step& step) {
    take_from_one(gradients_);
    many_->executor.update(state);
    one_->executor.update(state);
    many_->groups.wait(ground_.stream);
    const std::string when = fmt::format("step {}, update", state.step + 1);
    const Compared norm = compare({one_->experiment.gradient_norm}, tolerances_.update, when);
    const Compared weights = compare(weights_, tolerances_.update, when);
    step.grad_norm = tessera::number(ground_.stream, one_->executor.view(one_->experiment.gradient_norm));
    step.update_difference = std::max(norm.distance, weights.distance);
    step.fault = norm.fault.empty() ? weights.fault : norm.fault;
    if (!step.fault.empty()) step.fault += "\n  loss and gradients agree";
    take_from_one(weights_);
}

// Ids that this rank does not hold count for nothing.
Verification::Compared Verification::compare(const std::vector<ValueId>& ids, double tolerance,
                                             const std::string& when) {
    const Plan& plan = many_->program.plan;
    double most = 0;
    std::string fault;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const HeldPart part = part_at_rest(many_->program, ids[i]);
        if (part.boxes.empty()) continue;
        HostCopy held(ground_.stream, view_at_rest(many_->executor, plan, ids[i]));
        HostCopy whole(ground_.stream, one_->executor.view(ids[i]));
        held.load();
        whole.load();
        const double found = distance(part, held.view(), whole.view());
        most = std::max(most, found);
        if (found > tolerance && fault.empty())
            fault = fmt::format("{:08}{}", i, text_of(ids[i], when, found, tolerance));
    }
    return {most_of(most), first_of(fault)};
}

void Verification::take_from_one(const std::vector<ValueId>& ids) {
    const Plan& plan = many_->program.plan;
    for (const ValueId id : ids) {
        const HeldPart part = part_at_rest(many_->program, id);
        if (part.boxes.empty()) continue;
        HostCopy held(ground_.stream, view_at_rest(many_->executor, plan, id));
        HostCopy whole(ground_.stream, one_->executor.view(id));
        whole.load();
        take_part(part, whole.view(), held.view());
        held.store();
    }
}

// Weights and states are still those of the step's start: its micro-batches can be run again, and in each round one of
// every rank is compared.
std::string Verification::locate(const StepState& state) {
    const Plan& plan = many_->program.plan;
    const auto rounds = static_cast<std::int64_t>(most_of(static_cast<double>(plan.share.size())));
    for (std::int64_t place = 0; place < rounds; ++place) {
        record(state, place);
        const std::int64_t micro_batch = plan.share.begin + place * plan.stride;
        if (place < plan.share.size()) compare_record(state, micro_batch);
        if (std::string first = first_of(first_recorded(state, micro_batch)); !first.empty()) return first;
    }
    return {};
}

void Verification::record(const StepState& state, std::int64_t place) {
    const Model& model = many_->program.model;
    recording_.clear();
    many_->executor.watch([&](const Node& node, std::int64_t micro_batch, std::span<const View> outputs) {
        if (micro_batch == place || (node.phase == Phase::prepare && place == 0))
            recording_.keep(ground_.stream, node, outputs);
    });
    run_micro_batches(*many_, state, [&](std::int64_t number) {
        if (number != place) return;
        for (std::size_t i = 0; i < model.inputs.size(); ++i)
            if (const View& view = many_->executor.batch()[i]; view.memory() != nullptr)
                recording_.keep_input(ground_.stream, model.inputs[i], view);
    });
    many_->executor.watch({});
}

void Verification::compare_record(const StepState& state, std::int64_t micro_batch) {
    const Program& program = one_->program;
    for (const ValueId id : program.model.graph.of_kind(ValueKind::parameter))
        recording_.compare(ground_.stream, id, one_->executor.view(id));
    one_->executor.watch([&](const Node& node, std::int64_t number, std::span<const View> outputs) {
        if (number != micro_batch && node.phase != Phase::prepare) return;
        for (std::size_t i = 0; i < outputs.size(); ++i)
            recording_.compare(ground_.stream, node.outputs[i], outputs[i]);
    });
    run_micro_batches(*one_, state, [&](std::int64_t number) {
        if (number != micro_batch) return;
        for (const ValueId input : program.model.inputs)
            recording_.compare(ground_.stream, input, one_->executor.view(input));
    });
    one_->executor.watch({});
}

// With the digits that first_of orders by.
std::string Verification::first_recorded(const StepState& state, std::int64_t micro_batch) const {
    const Recording::Entry* wrong = recording_.first_wrong();
    if (wrong == nullptr) return {};
    return fmt::format("{:02}{:08}{:04}{}", static_cast<int>(wrong->place.phase), wrong->place.node + 1,
                       wrong->place.after, text_of(*wrong, state, micro_batch));
}

std::string Verification::text_of(const Recording::Entry& entry, const StepState& state,
                                  std::int64_t micro_batch) const {
    constexpr std::array passes = {"weights in use", "forward pass", "backward pass"};
    std::string when = fmt::format("step {}, ", state.step + 1);
    if (entry.place.phase != Phase::prepare)
        when += fmt::format("micro-batch {} of {}, ", micro_batch + 1, one_->experiment.batch.micro_batches);
    when += passes[static_cast<std::size_t>(entry.place.phase)];
    std::string text = text_of(entry.value, when, entry.distance, recording_.tolerance(entry));
    const Recording::Entry* before = recording_.before(entry);
    text += before == nullptr ? "\n  it is the first value"
                              : fmt::format("\n  what comes before it agrees, up to '{}'",
                                            many_->program.plan.graph.value(before->value).name);
    return text;
}

std::string Verification::text_of(ValueId id, const std::string& when, double distance, double tolerance) const {
    const Mesh& mesh = many_->program.layout.mesh;
    const int rank = ground_.groups.all().rank();
    const std::vector<int> coordinate = mesh.coordinate(rank);
    std::vector<std::string> places;
    for (int axis = 0; axis < mesh.axis_count(); ++axis)
        places.push_back(fmt::format("{} {}", mesh.axis(axis).name, coordinate[static_cast<std::size_t>(axis)]));
    const int layer = twins_.layer_of(id);
    const Graph& graph = many_->program.plan.graph;
    const ValueId of = graph.value(id).gradient_of;
    const std::string what = of == no_value ? "" : fmt::format(" (gradient of '{}')", graph.value(of).name);
    const std::string by = std::isfinite(distance)
                               ? fmt::format("differs by {:.2g} of its largest value", distance)
                               : "differs where one of the two is not finite, or all of one rank's run is 0";
    return fmt::format("{}{}: '{}'{} on rank {} ({})\n  {}, tolerance {:.2g}", when,
                       layer < 0 ? "" : fmt::format(", layer {}", layer), graph.value(id).name, what, rank,
                       fmt::join(places, ", "), by, tolerance);
}

// Texts begin with what they are ordered by, in digits, which is taken off; of equals the lowest rank's is the first.
std::string Verification::first_of(const std::string& mine) const {
    const Team team = team_of(ground_.groups.all(), ground_.host);
    const auto key_of = [](const std::string& text) {
        return text.substr(0, std::min(text.find_first_not_of("0123456789"), text.size()));
    };
    std::string first;
    for (const std::string& text : team.gather(mine))
        if (!text.empty() && (first.empty() || key_of(text) < key_of(first))) first = text;
    return team.broadcast(first.substr(key_of(first).size()));
}

double Verification::most_of(double mine) const {
    auto most = static_cast<float>(mine);
    ground_.groups.all().all_reduce(ground_.host, View(&most, {1}, DType::f32), Reduction::max);
    return most;
}

} // namespace tessera
