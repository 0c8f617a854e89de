// SPDX-License-Identifier: Apache-2.0
// Records what a rank does in chosen steps, span by span, for `tessera trace`.
#pragma once

#include "core/log.hpp"
#include "core/run/clock_offset.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "parallel/communication/flight_recorder.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace tessera {

inline constexpr Key<std::vector<std::int64_t>> run_trace_steps{
    "run.trace_steps", "", "[FIRST, LAST] of the steps to trace, from 1; empty: none (see `tessera trace`)"};

// Without run.trace_steps it listens to nothing, and takes no memory. Otherwise all memory is taken beforehand; what
// does not fit is counted. On a GPU spans are the host's: when it handed work on, and when it waited.
class StepTrace final : public FlightRecorder::Listener {
public:
    // Reads the key. Throws ConfigError for a wrong value.
    static void check_keys(const Config& config);

    // `folder` is the run's; all arguments outlive it.
    StepTrace(const Ground& ground, const Experiment& experiment, Log& log, std::filesystem::path folder);
    ~StepTrace() override;
    StepTrace(const StepTrace&) = delete;
    StepTrace& operator=(const StepTrace&) = delete;

    // Around each step, from 1, and what follows it before the next. Called by all ranks together. At the first of the
    // steps and behind the last the ranks compare their clocks; then each writes FOLDER/trace/rank-NNNN.jsonl: a line
    // about itself, and one for each span, as Chrome's trace events (the JSON of Perfetto and chrome://tracing), on the
    // clock of rank 0. `stops`: no other step follows.
    void begin(std::int64_t step);
    void end(std::int64_t step, bool stops);

    void at(Activity activity, Doing doing, std::string_view work, std::int64_t now) override;
    void called(int axis, CallKind kind, std::int64_t bytes, std::int64_t begun, std::int64_t ended) override;

private:
    static constexpr std::size_t most_spans = 1 << 17, name_bytes = 55;
    enum class Track : std::uint8_t { steps, activities, work, calls }; // calls: one for each axis
    struct Span {
        std::int64_t begun, ended; // nanoseconds of the rank's own clock
        std::int64_t bytes;        // of a call; the number of a step
        Track track;
        std::uint8_t axis;
        CallKind kind;
        std::uint8_t name_length;
        char name[name_bytes + 1];
    };
    struct Running { // since when what is at work on a track has been
        std::int64_t since = 0;
        std::string name; // "": nothing that is traced
    };

    void add(Track track, std::string_view name, std::int64_t begun, std::int64_t ended, std::int64_t bytes = 0,
             int axis = 0, CallKind kind = CallKind::barrier);
    void change(Running& running, Track track, std::string_view name, std::int64_t now);
    void write(const ClockOffset& before, const ClockOffset& after, std::int64_t origin, std::int64_t end);
    std::string track_names(int rank, const std::string& host) const;
    std::string axis_name(int axis) const;

    Ground ground_;
    const Experiment& experiment_;
    Log& log_;
    std::filesystem::path folder_;
    std::int64_t first_ = 0, last_ = -1;
    bool records_ = false;
    std::int64_t begun_ = 0, step_begun_ = 0;
    ClockOffset offset_;
    std::vector<Span> spans_;
    std::int64_t dropped_ = 0;
    Running activity_, work_;
};

} // namespace tessera
