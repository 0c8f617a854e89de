// SPDX-License-Identifier: Apache-2.0
// In which order the stages of a pipeline work on the micro-batches of a step. Pure arithmetic.
//
// The model is cut into chunks; chunk c belongs to stage c % stages. A micro-batch goes forward through the chunks in
// rising order and back in falling order.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace tessera {

// gpipe: all forward, then all backward (Huang et al. 2019). one_f_one_b: backward as early as can be, so that a stage
// keeps at most as many micro-batches as there are stages behind it (PipeDream-flush: Narayanan et al. 2021).
// interleaved: the same with several chunks for each stage (ibid.). zero_bubble: the backward pass in two, and the
// gradients of weights fill what would be waiting (ZB-H1: Qi et al. 2024).
enum class ScheduleKind { gpipe, one_f_one_b, interleaved, zero_bubble };

// "gpipe", "1f1b", "interleaved", "zero_bubble"; ConfigError for another name, with the nearest.
ScheduleKind schedule_named(std::string_view name);
std::string_view name_of(ScheduleKind kind);

// Work on one micro-batch. `backward` leads to what the chunk before needs; where the schedule splits, `weights` does
// what is left of the backward pass.
enum class Work { forward, backward, weights };

struct Task {
    Work work = Work::forward;
    int chunk = 0; // of the stage: 0 to chunks - 1
    std::int64_t micro_batch = 0;
    friend bool operator==(const Task&, const Task&) = default;
};

struct Pipeline {
    ScheduleKind kind = ScheduleKind::one_f_one_b;
    int stages = 1;
    int chunks = 1; // of each stage; above 1 for interleaved only
    std::int64_t micro_batches = 1;
    bool trains = true; // or forward only

    bool splits_backward() const { return kind == ScheduleKind::zero_bubble && trains; }
};

// What a stage does in a step, in order. Each chunk takes the micro-batches in rising order in each kind of work.
// ConfigError when several chunks would take turns unevenly: the micro-batches must be a multiple of the stages.
std::vector<Task> tasks_of(const Pipeline& pipeline, int stage);

// Seconds (or any other unit) of a chunk's work on one micro-batch. Without a split, backward is all of it.
struct ChunkTime {
    double forward = 0;
    double backward = 0;
    double weights = 0;
};

// Between two stages, of what a micro-batch leads to the next one and back. It goes on beside the work of both.
struct MessageTime {
    double forward = 0;
    double backward = 0;
};

struct Makespan {
    double seconds = 0;       // from the first task to the last
    std::vector<double> busy; // by stage
    double bubble() const;    // the share of the stages' time in which they wait: 0 to 1
};

struct Span {
    double begin = 0;
    double end = 0;
};

// When every task runs, if it starts as soon as its stage is free and what it needs is there: by stage, in the order of
// tasks_of. `times` by chunk of the whole pipeline. InternalError when the tasks wait for each other for ever.
std::vector<std::vector<Span>> timeline(const Pipeline& pipeline, const std::vector<ChunkTime>& times,
                                        const MessageTime& message = {});

// The step that follows from it.
Makespan makespan(const Pipeline& pipeline, const std::vector<ChunkTime>& times, const MessageTime& message = {});

} // namespace tessera
