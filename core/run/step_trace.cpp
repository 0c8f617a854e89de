// SPDX-License-Identifier: Apache-2.0
// Spans into memory while steps run, and out of it when they are over.
#include "core/run/step_trace.hpp"

#include "core/json.hpp"
#include "core/run/text_file.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <map>
#include <unistd.h>

namespace tessera {
namespace {

double seconds_now() { return static_cast<double>(monotonic_now()) / 1e9; }

// To the nanosecond, so that one span ends where the next begins.
std::string in_microseconds(std::int64_t nanoseconds) {
    return fmt::format("{}{}.{:03}", nanoseconds < 0 ? "-" : "", std::abs(nanoseconds) / 1000,
                       std::abs(nanoseconds) % 1000);
}

// Phase and layer of a node, as the plan knows them, by its name.
using NodeFacts = std::map<std::string, std::string, std::less<>>;

NodeFacts facts_of(const Graph& graph) {
    constexpr std::array phases{"prepare", "forward", "backward", "update"};
    NodeFacts facts;
    for (const Node& node : graph.nodes()) {
        std::string text = fmt::format("\"phase\":\"{}\"", phases[static_cast<std::size_t>(node.phase)]);
        if (node.layer >= 0) text += fmt::format(",\"layer\":{}", node.layer);
        facts.emplace(node.name, text);
    }
    return facts;
}

} // namespace

void StepTrace::check_keys(const Config& config) {
    const std::vector<std::int64_t> steps = config.get(run_trace_steps);
    if (!steps.empty() && (steps.size() != 2 || steps[0] < 1 || steps[1] < steps[0]))
        config.refuse(run_trace_steps.name, "expected [FIRST, LAST], steps from 1");
}

StepTrace::StepTrace(const Ground& ground, const Experiment& experiment, Log& log, std::filesystem::path folder)
    : ground_(ground), experiment_(experiment), log_(log), folder_(std::move(folder)) {
    const std::vector<std::int64_t> steps = ground.config.get(run_trace_steps);
    if (steps.empty()) return;
    first_ = steps[0];
    last_ = steps[1];
    spans_.reserve(most_spans);
    activity_.name.reserve(name_bytes);
    work_.name.reserve(name_bytes);
}

StepTrace::~StepTrace() {
    if (records_) ground_.groups.recorder().remove(*this);
}

void StepTrace::begin(std::int64_t step) {
    if (step < first_ || step > last_) return;
    if (!records_) {
        offset_ = clock_offset(ground_.groups.all(), ground_.host, seconds_now);
        ground_.groups.recorder().add(*this);
        records_ = true;
        begun_ = monotonic_now();
    }
    step_begun_ = monotonic_now();
}

void StepTrace::end(std::int64_t step, bool stops) {
    if (!records_) return;
    const std::int64_t now = monotonic_now();
    change(activity_, Track::activities, "", now);
    change(work_, Track::work, "", now);
    add(Track::steps, fmt::format("step {}", step), step_begun_, now, step);
    if (step < last_ && !stops) return;
    ground_.groups.recorder().remove(*this);
    records_ = false;
    const ClockOffset after = clock_offset(ground_.groups.all(), ground_.host, seconds_now);
    std::array<std::int64_t, 1> origin{begun_};
    ground_.groups.all().broadcast(ground_.host, View(origin.data(), {2}, DType::i32), 0);
    write(offset_, after, origin[0], now);
    last_ = -1; // once
}

void StepTrace::at(Activity activity, Doing doing, std::string_view work, std::int64_t now) {
    const std::string_view other = activity == Activity::training ? std::string_view() : name_of(activity);
    if (activity_.name != other) change(activity_, Track::activities, other, now);
    change(work_, Track::work,
           doing == Doing::reading_data      ? "read data"
           : doing == Doing::waiting_for_gpu ? "wait for the GPU"
           : doing == Doing::computing       ? work
                                             : std::string_view(),
           now);
}

void StepTrace::called(int axis, CallKind kind, std::int64_t bytes, std::int64_t begun, std::int64_t ended) {
    add(Track::calls, work_.name, begun, ended, bytes, axis, kind);
}

void StepTrace::change(Running& running, Track track, std::string_view name, std::int64_t now) {
    if (!running.name.empty()) add(track, running.name, running.since, now);
    running.name.assign(name.substr(0, name_bytes));
    running.since = now;
}

void StepTrace::add(Track track, std::string_view name, std::int64_t begun, std::int64_t ended, std::int64_t bytes,
                    int axis, CallKind kind) {
    if (spans_.size() == most_spans) {
        ++dropped_;
        return;
    }
    Span& span = spans_.emplace_back(Span{begun, ended, bytes, track, static_cast<std::uint8_t>(axis), kind, 0, {}});
    span.name_length = static_cast<std::uint8_t>(std::min(name.size(), name_bytes));
    std::memcpy(span.name, name.data(), span.name_length);
}

// As the recorder counts: 0 is all ranks. On CPUs an axis of all ranks shares their communicator, and gives its name.
std::string StepTrace::axis_name(int axis) const {
    const Mesh& mesh = experiment_.train.layout.mesh;
    if (axis > 0) return mesh.axis(axis - 1).name;
    for (int one = 0; one < mesh.axis_count(); ++one)
        if (mesh.size() > 1 && &ground_.groups.axis(one) == &ground_.groups.all()) return mesh.axis(one).name;
    return "all ranks";
}

// The lines that name the rank and its tracks.
std::string StepTrace::track_names(int rank, const std::string& host) const {
    std::string text;
    const auto name_track = [&](int track, const std::string& name) {
        text += fmt::format(R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":{}}}}})"
                            "\n",
                            rank, track, json_string(name));
    };
    text += fmt::format(R"({{"ph":"M","name":"process_name","pid":{},"args":{{"name":{}}}}})"
                        "\n",
                        rank, json_string(fmt::format("rank {} on {}", rank, host)));
    for (const auto& [track, name] : {std::pair{Track::steps, "steps"}, std::pair{Track::activities, "activities"},
                                      std::pair{Track::work, "operations"}})
        name_track(static_cast<int>(track), name);
    for (int axis = 0; axis <= experiment_.train.layout.mesh.axis_count(); ++axis)
        if (std::ranges::any_of(spans_, [&](const Span& s) { return s.track == Track::calls && s.axis == axis; }))
            name_track(static_cast<int>(Track::calls) + axis, fmt::format("communication: {}", axis_name(axis)));
    return text;
}

void StepTrace::write(const ClockOffset& before, const ClockOffset& after, std::int64_t origin, std::int64_t end) {
    const int rank = ground_.groups.all().rank();
    const NodeFacts facts = facts_of(experiment_.train.plan.graph);
    // The clocks drift apart evenly between the two comparisons.
    const auto nanoseconds = [&](std::int64_t time) {
        const double part =
            static_cast<double>(time - begun_) / static_cast<double>(std::max<std::int64_t>(end - begun_, 1));
        const double ahead = before.seconds + (after.seconds - before.seconds) * part;
        return time - origin - std::llround(ahead * 1e9);
    };
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    std::string text = fmt::format(
        R"({{"rank":{},"ranks":{},"host":{},"spans":{},"dropped":{},"clock_ahead":[{:.9f},{:.9f}],"clock_error":{:.9f}}})"
        "\n",
        rank, ground_.groups.all().size(), json_string(host.data()), spans_.size(), dropped_, before.seconds,
        after.seconds, std::max(before.error, after.error));
    text += track_names(rank, host.data());
    for (const Span& span : spans_) {
        const std::string_view name(span.name, span.name_length);
        std::string what(name), details;
        if (span.track == Track::calls) {
            what = name_of(span.kind);
            details = fmt::format(R"("axis":{},"bytes":{},"of":{})", json_string(axis_name(span.axis)), span.bytes,
                                  json_string(name));
        } else if (const auto known = facts.find(name); span.track == Track::work && known != facts.end()) {
            details = known->second;
        }
        const std::int64_t begun = nanoseconds(span.begun);
        const int track = static_cast<int>(span.track) + (span.track == Track::calls ? span.axis : 0);
        text += fmt::format(R"({{"ph":"X","name":{},"pid":{},"tid":{},"ts":{},"dur":{},"args":{{{}}}}})"
                            "\n",
                            json_string(what), rank, track, in_microseconds(begun),
                            in_microseconds(std::max<std::int64_t>(nanoseconds(span.ended) - begun, 0)), details);
    }
    std::error_code error;
    const std::filesystem::path folder = folder_ / "trace";
    std::filesystem::create_directories(folder, error);
    if (error) throw SystemError(fmt::format("cannot make {}: {}", folder.string(), error.message()));
    replace_file(folder / fmt::format("rank-{:04}.jsonl", rank), text);
    if (dropped_ > 0)
        log_.warning(fmt::format("the trace has room for {} spans: {} more are left out", most_spans, dropped_));
    log_.info(fmt::format("traced: `tessera trace {}` makes one file of it", folder_.string()));
}

} // namespace tessera
