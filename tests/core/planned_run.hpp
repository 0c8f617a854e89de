// SPDX-License-Identifier: Apache-2.0
// A graph planned for one rank, with its memory, ready to run, for tests.
#pragma once

#include "core/run/executor.hpp"
#include "core/run/host_copy.hpp"
#include "parallel/strategies/catalog.hpp"

#include <algorithm>
#include <span>
#include <vector>

namespace tessera {

inline Layout data_layout(int ranks, std::int64_t micro_batches) {
    Layout layout;
    layout.mesh = Mesh({{"data", ranks}});
    layout.strategies.push_back(make_strategy("data", layout.mesh.axis(0)));
    layout.micro_batches = micro_batches;
    return layout;
}

inline std::vector<float> floats_of(const View& view) {
    const auto* data = view.as<float>();
    return {data, data + view.count()};
}

// One rank alone. The graph outlives it.
struct PlannedRun {
    explicit PlannedRun(const Graph& graph, std::int64_t micro_batches = 1, Stream where = CpuStream(1))
        : stream(std::move(where)), layout(data_layout(1, micro_batches)), plan(make_plan(graph, layout, 0, stream)),
          groups(layout.mesh), memory(plan.memory, layout, groups, stream),
          executor(layout, plan, memory, groups, stream) {}

    void set(ValueId id, std::span<const float> values) {
        HostCopy copy(stream, executor.view(id));
        std::copy(values.begin(), values.end(), copy.view().as<float>());
        copy.store();
    }
    std::vector<float> get(ValueId id) {
        HostCopy copy(stream, executor.view(id));
        copy.load();
        return floats_of(copy.view());
    }

    void step(
        const StepState& state, const std::function<void()>& next_batch = [] {}) {
        executor.prepare(state);
        executor.run_micro_batches(state, 1, next_batch);
        executor.update(state);
    }

    Stream stream;
    Layout layout;
    Plan plan;
    Groups groups;
    Memory memory;
    Executor executor;
};

} // namespace tessera
