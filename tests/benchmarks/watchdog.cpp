// SPDX-License-Identifier: Apache-2.0
// What a step pays for being watched: mpirun -n 2 bench_watchdog CONFIG [section.key=value …]. Two executors of one
// plan take turns, one with plain groups, one with recorded groups and a watchdog that beats meanwhile, and an audit of
// the replicas behind each round of steps; batches are zeros. The plain one runs twice in a round: with its recorder
// paused, so that nothing at all is written down, and with what nodes say of themselves. Prints the median step of each
// and their ratios, round by round; the audit's share is that of the steps between two.
#include "core/watch/watchdog.hpp"
#include "core/config_catalog.hpp"
#include "core/log.hpp"
#include "core/run/replica_audit.hpp"
#include "core/run/weights.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <optional>
#include <unistd.h>

using namespace tessera;

namespace {

constexpr int warm_up = 5, rounds = 21, steps_of_round = 40;

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

void print(const std::string& what, const std::vector<double>& with, const std::vector<double>& without) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < with.size(); ++i)
        ratios.push_back(with[i] / without[i]);
    const auto [least, most] = std::ranges::minmax(ratios);
    fmt::print("  {:<45} {:.4f} ({:.4f} to {:.4f})\n", what, median(ratios), least, most);
}

struct Side {
    Groups groups;
    Memory memory;
    Executor executor;

    Side(const Experiment& experiment, Groups made, Stream& stream)
        : groups(std::move(made)), memory(experiment.memory, experiment.train.layout, groups, stream),
          executor(experiment.train.layout, experiment.train.plan, memory, groups, stream) {
        initialize_weights(experiment.train, executor, experiment.seed);
    }

    // The median step.
    double run(const Experiment& experiment, Stream& host, int steps) {
        std::vector<double> times;
        for (int step = 0; step < steps; ++step) {
            groups.all().barrier(host);
            const auto start = std::chrono::steady_clock::now();
            const FlightRecorder::StepScope recorded(groups.recorder(), step);
            const StepState state{.seed = experiment.seed, .step = step, .learning_rate = 1e-4};
            executor.prepare(state);
            executor.run_micro_batches(state, experiment.batch.micro_batch, [&] {
                for (const View& view : executor.batch())
                    if (view.memory() != nullptr) std::fill_n(static_cast<char*>(view.memory()), view.bytes(), '\0');
            });
            executor.update(state);
            groups.wait(executor.stream());
            times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
        return median(times);
    }
};

} // namespace

int main(int argc, char** argv) {
    World world;
    std::vector<std::string> words(argv + 1, argv + argc);
    words.push_back("run.device=cpu");
    const Config config = Config::load(words.at(0), {words.begin() + 1, words.end()}, known_keys());
    Stream stream = make_stream(config, &world);
    Stream host = make_host_stream(stream);
    const std::unique_ptr<Dataset> dataset = open_data(config, {});
    const Experiment experiment = plan_training(config, view_of(world), dataset.get(), stream);
    const Mesh mesh = experiment.train.layout.mesh;
    const ProcessGroup neighbours = world.group().on_this_host();
    FlightRecorder recorder(neighbours);
    Side plain(experiment, Groups(world, mesh, stream, true), stream);
    Side watched(experiment, Groups(world, mesh, stream, true, SumOrder::tree, false, Groups::Watch{recorder, false}),
                 stream);
    const auto folder = std::filesystem::temp_directory_path() / fmt::format("tessera-bench-{}", ::getpid());
    std::filesystem::create_directories(folder);
    Log log(config, folder, world.rank());
    ReplicaAudit audit({config, *dataset, watched.groups, stream, host}, experiment, watched.executor, log);
    const std::int64_t interval = config.get(audit_interval);
    const auto seconds_of_audit = [&] {
        if (!audit.due(interval)) return 0.0;
        watched.groups.all().barrier(host);
        const auto start = std::chrono::steady_clock::now();
        audit.run(interval);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    const auto bare = [&] {
        plain.groups.recorder().pause();
        const double seconds = plain.run(experiment, host, steps_of_round);
        plain.groups.recorder().pause(false);
        return seconds;
    };
    plain.run(experiment, host, warm_up);
    watched.run(experiment, host, warm_up);
    std::vector<double> nothing, notes, watch, audits;
    for (int round = 0; round < rounds; ++round) {
        const auto with_watch = [&] {
            const Watchdog watchdog(world, neighbours, recorder, {folder, mesh, 0});
            watch.push_back(watched.run(experiment, host, steps_of_round));
            audits.push_back(seconds_of_audit());
        };
        if (round % 2 == 0) with_watch();
        if (round % 4 < 2) nothing.push_back(bare());
        notes.push_back(plain.run(experiment, host, steps_of_round));
        if (round % 4 >= 2) nothing.push_back(bare());
        if (round % 2 == 1) with_watch();
    }
    std::filesystem::remove_all(folder);
    if (world.rank() != 0) return 0;
    fmt::print("{} ranks: a step takes {:.3f} ms with nothing written down; ratios of {} rounds:\n", world.size(),
               median(nothing) * 1e3, rounds);
    std::vector<double> all = watch;
    if (interval > 0)
        for (std::size_t i = 0; i < all.size(); ++i)
            all[i] += audits[i] / static_cast<double>(interval);
    print("what nodes say of themselves", notes, nothing);
    print("and flight recorder and watchdog", watch, nothing);
    print(fmt::format("and an audit of {:.3f} ms every {} steps", median(audits) * 1e3, interval), all, nothing);
    return 0;
}
