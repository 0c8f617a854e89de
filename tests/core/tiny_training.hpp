// SPDX-License-Identifier: Apache-2.0
// One rank's training of the tiny GPT, step by step, with everything in reach, for tests.
#pragma once

#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/schedule.hpp"
#include "core/run/step_numbers.hpp"
#include "core/run/weights.hpp"
#include "parallel/communication/local.hpp"
#include "tests/core/planned_run.hpp"
#include "tests/core/tiny_images.hpp"

#include <bit>
#include <cstring>

namespace tessera {

inline std::vector<std::uint32_t> bits_of(const View& view) {
    std::vector<std::uint32_t> bits(static_cast<std::size_t>(view.count()));
    std::memcpy(bits.data(), view.as<float>(), bits.size() * sizeof(float));
    return bits;
}

class TinyTraining {
public:
    using Change = std::function<void(Plan&, int rank)>; // of a plan, before it is run

    TinyTraining(const std::vector<std::string>& overrides, Communicator& communicator, Stream where = CpuStream(1))
        : TinyTraining(
              tiny_config(overrides), {communicator.rank(), communicator.size(), true},
              [&](const Mesh& mesh) { return Groups(mesh, communicator); }, std::move(where)) {}

    // As one rank of any mesh.
    TinyTraining(const Config& of, int rank, Groups of_rank, const Change& change = {})
        : TinyTraining(
              of, {rank, of_rank.all().size(), true}, [&](const Mesh&) { return std::move(of_rank); }, CpuStream(1),
              change) {}

    StepState state_of(std::int64_t step) {
        return {experiment.seed, step, 0, schedule.rate(step), StepNumbers(experiment, executor).skipped_steps()};
    }
    float scale() const { return 1.0f / static_cast<float>(experiment.sizes.units_per_step); }

    void step(std::int64_t step) {
        const StepState state = state_of(step);
        executor.prepare(state);
        executor.run_micro_batches(state, experiment.batch.micro_batch, [&] { loader.next(stream, executor.batch()); });
        executor.update(state);
    }

    // The same after NaN has been written to all memory that the step must not read before it writes there.
    void poisoned_step(std::int64_t step) {
        for (std::size_t i = 0; i < program.plan.values.size(); ++i) // weights in use
            if (program.plan.values[i].memory == MemoryKind::weights && program.plan.graph.values()[i].producer >= 0)
                poison(executor.view(static_cast<ValueId>(i)));
        const StepState state = state_of(step);
        executor.prepare(state);
        poison(whole(MemoryKind::gradients));
        executor.run_micro_batches(state, experiment.batch.micro_batch, [&] {
            poison_scratch();
            loader.next(stream, executor.batch());
        });
        poison_scratch();
        executor.update(state);
    }

    View whole(MemoryKind kind) const { return memory.view(kind, 0, {{experiment.memory[kind] / 4}, DType::f32}); }

    std::vector<std::uint32_t> bits(ValueId id) {
        HostCopy copy(stream, executor.view(id));
        copy.load();
        return bits_of(copy.view());
    }
    std::uint32_t loss() { return bits(program.model.loss())[0]; }
    std::uint32_t norm() { return bits(experiment.gradient_norm)[0]; }
    // Of all weights and optimizer states.
    std::vector<std::uint32_t> weights() {
        std::vector<std::uint32_t> all;
        for (const ValueKind kind : {ValueKind::parameter, ValueKind::optimizer_state})
            for (const ValueId id : program.model.graph.of_kind(kind)) {
                const std::vector<std::uint32_t> some = bits(id);
                all.insert(all.end(), some.begin(), some.end());
            }
        return all;
    }

    Stream stream;
    Config config;
    std::unique_ptr<Dataset> dataset;
    Experiment experiment;
    Program& program;
    Groups groups;
    Memory memory;
    Executor executor;
    Schedule schedule;
    Loader loader;

private:
    TinyTraining(const Config& of, const RankView& view, const std::function<Groups(const Mesh&)>& connect,
                 Stream where, const Change& change = {})
        : stream(std::move(where)), config(of), dataset(data_of(config)), experiment(planned(view, change)),
          program(experiment.train), groups(connect(program.layout.mesh)),
          memory(experiment.memory, program.layout, groups, stream),
          executor(program.layout, program.plan, memory, groups, stream),
          schedule(config, config.get(optimizer_rate), experiment.steps),
          loader(*dataset, SampleOrder(order_options(config, *dataset, Split::train, experiment.seed, experiment.batch.global)),
                 experiment.train_loader(0)) {
        initialize_weights(program, executor, experiment.seed);
        initialize_states(program, executor);
    }

    Experiment planned(const RankView& view, const Change& change) {
        Experiment made = plan_training(config, view, dataset.get(), stream);
        if (change) change(made.train.plan, view.rank);
        return made;
    }

    static void poison(const View& view) { std::memset(view.memory(), 0xff, static_cast<std::size_t>(view.bytes())); }
    void poison_scratch() const {
        poison(whole(MemoryKind::activations));
        if (experiment.memory[MemoryKind::workspace] > 0) poison(whole(MemoryKind::workspace));
    }
};

} // namespace tessera
