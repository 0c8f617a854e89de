// SPDX-License-Identifier: Apache-2.0
// Where the time of a training step goes: bench_step_profile CONFIG [section.key=value …]. Runs the calls of the plan
// of one rank on random tokens, without MPI, and prints milliseconds by op and by node, with their share of the peak.
#include "core/config_catalog.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "kernels/peak.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <map>
#include <random>

using namespace tessera;

namespace {

constexpr int warm_up = 10, repeats = 51;
constexpr std::int64_t vocabulary = 65;

struct TimedCall {
    const Node* node;
    std::vector<View> inputs, outputs;
    View workspace;
    double flops;
    double times; // a step runs it
    std::vector<double> seconds = {};

    double median() const {
        std::vector<double> sorted = seconds;
        std::nth_element(sorted.begin(), sorted.begin() + repeats / 2, sorted.end());
        return sorted[repeats / 2];
    }
};

struct Row {
    std::string name;
    int calls = 0;
    double seconds = 0;
    double flops = 0;
};

std::vector<TimedCall> calls_of(const Program& program, const Executor& executor, const Memory& memory) {
    std::vector<TimedCall> calls;
    const auto views = [&](const std::vector<ValueId>& ids, std::vector<TensorType>& types) {
        std::vector<View> result;
        for (const ValueId id : ids) {
            result.push_back(executor.view(id));
            types.push_back(program.plan.value(id).local);
        }
        return result;
    };
    for (const Phase phase : {Phase::prepare, Phase::forward, Phase::backward, Phase::update})
        for (const Call& call : program.plan.calls(phase)) {
            const Node& node = program.model.graph.nodes()[static_cast<std::size_t>(call.node)];
            std::vector<TensorType> in, out;
            const std::vector<View> inputs = views(node.inputs, in), outputs = views(node.outputs, out);
            const bool each = phase == Phase::forward || phase == Phase::backward;
            calls.push_back({&node, inputs, outputs, memory.workspace(call.workspace_bytes), node.op->flops(in, out),
                             each ? static_cast<double>(program.plan.share.size()) : 1.0});
        }
    return calls;
}

void run(std::vector<TimedCall>& calls, const std::vector<View>& inputs, Stream& stream, std::uint64_t seed) {
    using Clock = std::chrono::steady_clock;
    std::mt19937 random(1);
    for (int step = 0; step < warm_up + repeats; ++step) {
        for (const View& input : inputs) // each time: the plan gives their memory to others once they are used
            std::generate_n(input.as<std::int32_t>(), input.shape.count(),
                            [&] { return static_cast<std::int32_t>(random() % vocabulary); });
        const StepState state{.seed = seed, .step = step, .learning_rate = 1e-4};
        for (TimedCall& call : calls) {
            const auto start = Clock::now();
            call.node->op->run(stream, {call.inputs, call.outputs, call.workspace, state});
            if (step >= warm_up) call.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
        }
    }
}

void print(const std::string& title, std::vector<Row> rows, double total, double peak, std::size_t most) {
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
    fmt::print("{:<52} {:>6} {:>9} {:>7} {:>9} {:>8}\n", title, "calls", "ms", "share", "GFLOP/s", "of peak");
    for (std::size_t i = 0; i < std::min(most, rows.size()); ++i) {
        const Row& row = rows[i];
        fmt::print("{:<52} {:>6} {:>9.3f} {:>6.1f}%", row.name, row.calls, 1e3 * row.seconds,
                   100 * row.seconds / total);
        if (row.flops > 0)
            fmt::print(" {:>9.1f} {:>7.1f}%", row.flops / row.seconds / 1e9, 100 * row.flops / row.seconds / peak);
        fmt::print("\n");
    }
    fmt::print("\n");
}

void report(const std::vector<TimedCall>& calls, double peak) {
    std::map<std::string, Row> kinds;
    std::vector<Row> nodes;
    double total = 0;
    for (const TimedCall& call : calls) {
        const double seconds = call.times * call.median(), flops = call.times * call.flops;
        const std::string kind(call.node->op->name());
        Row& row = kinds.try_emplace(kind, Row{kind}).first->second;
        row.calls += static_cast<int>(call.times);
        row.seconds += seconds;
        row.flops += flops;
        nodes.push_back({fmt::format("{} {}", kind, call.node->name), static_cast<int>(call.times), seconds, flops});
        total += seconds;
    }
    std::vector<Row> rows;
    for (const auto& [kind, row] : kinds)
        rows.push_back(row);
    fmt::print("step: {:.3f} ms in {} calls; f32 peak {:.0f} GFLOP/s\n\n", 1e3 * total, calls.size(), peak / 1e9);
    print("op", rows, total, peak, rows.size());
    print("the slowest nodes", nodes, total, peak, 20);
}

int profile(const std::vector<std::string>& words) {
    const Config config = Config::load(words.at(0), {words.begin() + 1, words.end()}, known_keys());
    Stream stream = make_stream(config, nullptr);
    DatasetOptions data;
    data.reader = "synthetic";
    data.synthetic_vocabulary = vocabulary;
    data.sequence_length = config.get(training_sequence);
    const auto dataset = open_dataset(data);
    const Experiment experiment = plan_training(config, {}, dataset.get(), stream);
    const Program& program = experiment.train;
    Groups groups(make_mesh(config, 1));
    const Memory memory(experiment.memory, program.layout, groups, stream);
    Executor executor(program.model.graph, program.layout, program.plan, memory, groups, stream);
    initialize_weights(program, executor, experiment.seed);

    executor.prepare({}); // writes the step inputs

    std::vector<TimedCall> calls = calls_of(program, executor, memory);
    run(calls, {executor.view(program.model.tokens), executor.view(program.model.targets)}, stream, experiment.seed);
    report(calls, std::visit([](auto& s) { return kernels::peak_flops(s); }, stream));
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    try {
        if (argc < 2) throw ConfigError("usage: bench_step_profile CONFIG [section.key=value …]");
        return profile({argv + 1, argv + argc});
    } catch (const std::exception& error) {
        fmt::print(stderr, "bench_step_profile: {}\n", error.what());
        return 2;
    }
}
