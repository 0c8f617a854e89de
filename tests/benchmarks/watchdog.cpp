// SPDX-License-Identifier: Apache-2.0
// What a step pays for being watched: mpirun -n 2 bench_watchdog CONFIG [section.key=value …]. Two executors of one
// plan take turns, one with plain groups, one with recorded groups and a watchdog that beats meanwhile; batches are
// zeros. Prints the median step of each and their ratio, round by round; then what an audit of the replicas takes, and
// its share of the steps between two.
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

struct Side {
    Groups groups;
    Memory memory;
    Executor executor;
    std::vector<double> seconds{}; // median step of each round

    Side(const Experiment& experiment, Groups made, Stream& stream)
        : groups(std::move(made)), memory(experiment.memory, experiment.train.layout, groups, stream),
          executor(experiment.train.layout, experiment.train.plan, memory, groups, stream) {
        initialize_weights(experiment.train, executor, experiment.seed);
    }

    void run(const Experiment& experiment, Stream& host, int steps) {
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
        seconds.push_back(median(times));
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
    plain.run(experiment, host, warm_up);
    watched.run(experiment, host, warm_up);
    plain.seconds.clear();
    watched.seconds.clear();
    std::vector<double> ratios;
    for (int round = 0; round < rounds; ++round) {
        const auto with = [&] {
            const Watchdog watchdog(world, neighbours, recorder, {folder, mesh, 0});
            watched.run(experiment, host, steps_of_round);
        };
        if (round % 2 == 0) with();
        plain.run(experiment, host, steps_of_round);
        if (round % 2 == 1) with();
        ratios.push_back(watched.seconds.back() / plain.seconds.back());
    }
    std::filesystem::create_directories(folder);
    Log log(config, folder, world.rank());
    ReplicaAudit audit({config, *dataset, watched.groups, stream, host}, experiment, watched.executor, log);
    std::vector<double> audits;
    const std::int64_t interval = config.get(audit_interval);
    for (int i = 0; i < rounds && audit.due(interval); ++i) {
        watched.groups.all().barrier(host);
        const auto start = std::chrono::steady_clock::now();
        audit.run(interval);
        audits.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::filesystem::remove_all(folder);
    if (world.rank() != 0) return 0;
    if (!audits.empty()) {
        const double share = median(audits) / (static_cast<double>(interval) * median(plain.seconds));
        fmt::print("an audit takes {:.3f} ms: {:.5f} of the {} steps that it comes after; all together {:.4f}\n",
                   median(audits) * 1e3, share, interval, median(ratios) + share);
    }
    const auto [least, most] = std::ranges::minmax(ratios);
    fmt::print("{} ranks: a step takes {:.3f} ms plain, {:.3f} ms watched; ratio of rounds: median {:.4f}, from {:.4f} "
               "to {:.4f}\n",
               world.size(), median(plain.seconds) * 1e3, median(watched.seconds) * 1e3, median(ratios), least, most);
    return 0;
}
