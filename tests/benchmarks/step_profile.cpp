// SPDX-License-Identifier: Apache-2.0
// Where the time of a training step goes: bench_step_profile CONFIG [section.key=value …]. Runs the plan of one rank on
// random tokens, images or rows, without MPI, on the device of the config: whole steps, with CUDA graphs as the config
// has them and without; then call by call, each between two marks; then each call five times in a row, on a GPU as one
// graph, so that no launch is waited for. Prints milliseconds by op and by node, and what they are a share of.
#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "kernels/replay.hpp"
#include "launcher/setup.hpp"
#include "tests/benchmarks/peaks.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <functional>
#include <limits>
#include <map>
#include <random>

using namespace tessera;

namespace {

constexpr int warm_up = 10, most_steps = 51, alone_runs = 5;
constexpr double most_seconds = 15; // of each of the three parts
constexpr std::int64_t usual_vocabulary = 65;

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

struct TimedCall {
    const Node* node;
    std::vector<View> inputs, outputs;
    View workspace;
    double flops, bytes; // of one run: each operand read or written once
    double times;        // a step runs it
    std::vector<double> in_step = {};
    double alone = std::numeric_limits<double>::infinity();
};

struct Row {
    std::string name;
    int calls = 0;
    double seconds = 0, alone = 0, flops = 0, bytes = 0;

    void add(const TimedCall& call) {
        calls += static_cast<int>(call.times);
        seconds += call.times * median(call.in_step);
        alone += call.times * call.alone;
        flops += call.times * call.flops;
        bytes += call.times * call.bytes;
    }
};

// What is timed, and what it needs to run.
struct Setting {
    Experiment experiment;
    Stream& stream;
    Groups groups;
    Memory memory;
    Executor executor; // as the config wants it
    Executor plain;    // without graphs
    Timer& timer;
    std::vector<View> inputs;
    std::vector<Buffer> data{}; // of the host, for each input

    Setting(Experiment planned, const Mesh& mesh, Stream& where, Timer& marks, bool replay)
        : experiment(std::move(planned)), stream(where), groups(mesh),
          memory(experiment.memory, experiment.train.layout, groups, stream),
          executor(experiment.train.layout, experiment.train.plan, memory, groups, stream, replay),
          plain(experiment.train.layout, experiment.train.plan, memory, groups, stream), timer(marks) {
        initialize_weights(experiment.train, executor, experiment.seed);
        std::mt19937 random{1};
        const auto classes = static_cast<std::uint64_t>(std::max<std::int64_t>(experiment.sizes.sample.classes, 1));
        for (const ValueId input : experiment.train.model.inputs) {
            inputs.push_back(executor.view(input));
            data.push_back(
                std::visit([&](const auto& s) { return allocate_host(s, align_up(inputs.back().bytes())); }, stream));
            const View host(data.back().data(), inputs.back().shape, inputs.back().dtype);
            if (host.dtype == DType::f32)
                std::generate_n(host.as<float>(), host.count(), std::bind(std::normal_distribution<float>(), random));
            else
                std::generate_n(host.as<std::int32_t>(), host.count(),
                                [&] { return static_cast<std::int32_t>(random() % classes); });
        }
    }

    StepState state(int step) const { return {.seed = experiment.seed, .step = step, .learning_rate = 1e-4}; }

    // Each time: the plan gives the inputs' memory to others once they are used.
    void next_batch() {
        for (std::size_t i = 0; i < inputs.size(); ++i)
            std::visit(
                [&](auto& s) {
                    kernels::begin_upload(s, ConstView(data[i].data(), inputs[i].shape, inputs[i].dtype), inputs[i]);
                },
                stream);
    }
};

// Calls step(i) until there are enough of them.
template <class Step> void repeat(int at_least, const Step& step) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < most_steps; ++i) {
        if (i >= at_least &&
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > most_seconds)
            return;
        step(i);
    }
}

std::vector<TimedCall> calls_of(const Setting& setting) {
    const Program& program = setting.experiment.train;
    std::vector<TimedCall> calls;
    const auto views = [&](const std::vector<ValueId>& ids, std::vector<TensorType>& types) {
        std::vector<View> result;
        for (const ValueId id : ids) {
            result.push_back(setting.executor.view(id));
            types.push_back(program.plan.value(id).local);
        }
        return result;
    };
    for (const Phase phase : {Phase::prepare, Phase::forward, Phase::backward, Phase::update})
        for (const Call& call : program.plan.calls(phase)) {
            const Node& node = program.plan.graph.nodes()[static_cast<std::size_t>(call.node)];
            std::vector<TensorType> in, out;
            const std::vector<View> inputs = views(node.inputs, in), outputs = views(node.outputs, out);
            std::int64_t bytes = 0;
            for (const std::vector<TensorType>& types : {in, out})
                for (const TensorType& type : types)
                    bytes += type.bytes();
            for (const int written : node.op->writes())
                bytes += in[static_cast<std::size_t>(written)].bytes();
            const bool each = phase == Phase::forward || phase == Phase::backward;
            calls.push_back({&node, inputs, outputs, setting.memory.workspace(call.workspace_bytes),
                             node.op->flops(in, out), static_cast<double>(bytes),
                             each ? static_cast<double>(program.plan.share.size()) : 1.0});
        }
    return calls;
}

// The median seconds of a step, as training runs it.
double time_steps(Setting& setting, Executor& executor) {
    std::vector<double> seconds;
    const auto step = [&](int number) {
        const StepState state = setting.state(number);
        setting.timer.mark();
        executor.prepare(state);
        executor.run_micro_batches(state, setting.experiment.batch.micro_batch, [&] { setting.next_batch(); });
        executor.update(state);
        setting.timer.mark();
        seconds.push_back(setting.timer.take().at(0));
    };
    for (int i = 0; i < warm_up; ++i)
        step(i);
    seconds.clear();
    repeat(5, step);
    return median(seconds);
}

void run(Setting& setting, const TimedCall& call) {
    call.node->op->run(setting.stream, {call.inputs, call.outputs, call.workspace});
}

// Runs every call `runs` times in a row, with marks around each run; an op that works in place does so each time.
std::vector<double> run_marked(Setting& setting, const std::vector<TimedCall>& calls, int runs) {
    setting.next_batch();
    setting.timer.mark();
    for (const TimedCall& call : calls)
        for (int i = 0; i < runs; ++i) {
            run(setting, call);
            setting.timer.mark();
        }
    return setting.timer.take();
}

void time_alone(Setting& setting, CpuStream&, std::vector<TimedCall>& calls) {
    repeat(2, [&](int) {
        const std::vector<double> seconds = run_marked(setting, calls, alone_runs);
        for (std::size_t i = 0; i < seconds.size(); ++i)
            calls[i / alone_runs].alone = std::min(calls[i / alone_runs].alone, seconds[i]);
    });
}

// Seconds of one of several runs that a GPU is given as one graph: between two marks a small kernel is mostly its
// launch.
void time_alone(Setting& setting, CudaStream& stream, std::vector<TimedCall>& calls) {
    setting.next_batch();
    for (TimedCall& call : calls) {
        Replay recorded;
        for (int round = 0; round < 5; ++round) { // of which one is plain and one records
            setting.timer.mark();
            recorded.run(stream, [&] {
                for (int i = 0; i < alone_runs; ++i)
                    run(setting, call);
            });
            setting.timer.mark();
            const double seconds = setting.timer.take().at(0);
            if (round > 1) call.alone = std::min(call.alone, seconds / alone_runs);
        }
    }
}

void time_calls(Setting& setting, std::vector<TimedCall>& calls) {
    repeat(5, [&](int) {
        const std::vector<double> seconds = run_marked(setting, calls, 1);
        for (std::size_t i = 0; i < calls.size(); ++i)
            calls[i].in_step.push_back(seconds[i]);
    });
    std::visit([&](auto& stream) { time_alone(setting, stream, calls); }, setting.stream);
}

void print(const std::string& title, std::vector<Row> rows, double total, const Peaks& peaks, std::size_t most) {
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
    fmt::print("{:<60} {:>6} {:>9} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8}\n", title, "calls", "ms", "share", "alone ms",
               "GFLOP/s", "of peak", "GB/s", "of peak");
    for (std::size_t i = 0; i < std::min(most, rows.size()); ++i) {
        const Row& row = rows[i];
        fmt::print("{:<60} {:>6} {:>9.3f} {:>6.1f}% {:>9.3f}", row.name, row.calls, 1e3 * row.seconds,
                   100 * row.seconds / total, 1e3 * row.alone);
        if (row.flops > 0)
            fmt::print(" {:>9.1f} {:>7.1f}%", row.flops / row.seconds / 1e9,
                       100 * row.flops / row.seconds / peaks.flops);
        else
            fmt::print(" {:>18}", "");
        fmt::print(" {:>8.1f} {:>7.1f}%\n", row.bytes / row.seconds / 1e9, 100 * row.bytes / row.seconds / peaks.bytes);
    }
    fmt::print("\n");
}

void report(const std::vector<TimedCall>& calls, double step, const Peaks& peaks) {
    std::map<std::string, Row> kinds;
    std::vector<Row> nodes, rows;
    Row all;
    double floor = 0;
    for (const TimedCall& call : calls) {
        const std::string kind(call.node->op->name());
        kinds.try_emplace(kind, Row{kind}).first->second.add(call);
        nodes.push_back({fmt::format("{} {}", kind, call.node->name)});
        nodes.back().add(call);
        all.add(call);
        floor += call.times * std::max(call.flops / peaks.flops, call.bytes / peaks.bytes);
    }
    for (const auto& [kind, row] : kinds)
        rows.push_back(row);
    fmt::print("step: {:.3f} ms in {} calls\n", 1e3 * step, calls.size());
    fmt::print("the calls in their places: {:.3f} ms, {:.2f} of the step\n", 1e3 * all.seconds, all.seconds / step);
    fmt::print("the best of each call alone: {:.3f} ms; the step takes {:.2f} times as long\n", 1e3 * all.alone,
               step / all.alone);
    fmt::print("each call at one of the peaks: {:.3f} ms; the step takes {:.2f} times as long\n", 1e3 * floor,
               step / floor);
    fmt::print("peaks: {:.0f} GFLOP/s ({}), {:.0f} GB/s (a copy)\n\n", peaks.flops / 1e9, peaks.flops_of,
               peaks.bytes / 1e9);
    print("op", rows, all.seconds, peaks, rows.size());
    print("the slowest nodes", nodes, all.seconds, peaks, 30);
}

// Null where the config alone tells what samples are: images and tables. In place of a text that is not there stands
// one made up.
std::unique_ptr<Dataset> dataset_for(const Config& config) {
    if (!reads_text(config)) return data_of(config);
    DatasetOptions data;
    data.reader = "synthetic";
    const std::int64_t vocabulary = vocabulary_without_data(config);
    data.synthetic_vocabulary = vocabulary > 0 ? vocabulary : usual_vocabulary;
    data.sequence_length = config.get(training_sequence);
    return open_dataset(data);
}

int profile(const std::vector<std::string>& words) {
    const Config config = Config::load(words.at(0), {words.begin() + 1, words.end()}, known_keys());
    Stream stream = make_stream(config, nullptr);
    const auto timer = std::visit([](const auto& s) { return make_timer(s); }, stream);
    const std::unique_ptr<Dataset> dataset = dataset_for(config);
    const Peaks peaks = measured_peaks(stream, dtype_named(config.get(training_dtype)));
    const bool replay = !std::holds_alternative<CpuStream>(stream) && config.get(run_cuda_graph);
    Setting setting(plan_training(config, {}, dataset.get(), stream), make_mesh(config, 1), stream, *timer, replay);
    fmt::print("{}, {}: {} parameters, {} micro-batches of {} x {} {}s\n", words[0],
               std::visit([](const auto& s) { return s.text(); }, stream),
               parameter_count(setting.experiment.train.model.graph), setting.experiment.batch.micro_batches,
               setting.experiment.batch.micro_batch, setting.experiment.sizes.sample.units,
               setting.experiment.sizes.sample.unit);

    const double step = time_steps(setting, setting.executor);
    if (replay) fmt::print("step without CUDA graphs: {:.3f} ms\n", 1e3 * time_steps(setting, setting.plain));
    std::vector<TimedCall> calls = calls_of(setting);
    time_calls(setting, calls);
    report(calls, step, peaks);
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
