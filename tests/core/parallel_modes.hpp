// SPDX-License-Identifier: Apache-2.0
// The table of parallel modes: which there are, which exclude each other, and which layouts are tried against one rank.
#pragma once

#include "tests/core/training_on_mesh.hpp"

#include <array>
#include <fmt/format.h>
#include <string_view>

namespace tessera {

using Words = std::vector<std::string>;

// The degrees of a layout's axes, by the keys "parallelism.…_degree" that say them.
using Degrees = std::map<std::string, int>;

struct Mode {
    std::string name;
    std::string family; // of modes that cannot exist together; empty: with all
    Degrees degrees;
    Words words;      // of the layout
    Words experiment; // what the run on one rank says, too
    bool same_bits = true;
};

inline std::vector<Mode> parallel_modes() {
    const Degrees data{{"data_parallel", 2}}, tensor{{"tensor_parallel", 2}}, context{{"context_parallel", 2}},
        pipeline{{"pipeline_parallel", 2}};
    const auto zero = [](int stage) { return Words{fmt::format("parallelism.zero_stage={}", stage)}; };
    const auto schedule = [](std::string_view name) {
        return Words{fmt::format("parallelism.pipeline_schedule={}", name)};
    };
    return {
        {"data", "", data, {}, {}},
        {"zero_1", "zero", data, zero(1), {}},
        {"zero_2", "zero", data, zero(2), {}},
        {"zero_3", "zero", data, zero(3), {}},
        {"hybrid", "zero", {{"data_parallel", 2}, {"data_parallel_replicate", 2}}, zero(3), {}},
        {"accumulation", "", {}, {}, {"training.global_batch_size=24"}}, // 12 micro-batches
        {"selective", "recompute", {}, {"training.recompute=selective"}, {}},
        {"full", "recompute", {}, {"training.recompute=full"}, {}},
        {"gpipe", "schedule", pipeline, schedule("gpipe"), {}},
        {"1f1b", "schedule", pipeline, schedule("1f1b"), {}},
        {"interleaved", "schedule", pipeline, schedule("interleaved"), {"model.n_layers=4"}},
        {"zero_bubble", "schedule", pipeline, schedule("zero_bubble"), {}},
        {"tensor", "", tensor, {}, {}, false},
        {"sequence", "", tensor, {"parallelism.sequence_parallel=true"}, {}, false},
        {"ulysses", "context", context, {}, {}, false},
        {"ring", "context", context, {"parallelism.context_parallel_method=ring"}, {}, false},
        {"expert", "", {{"expert_parallel", 2}}, {}, {}, false},
        {"samples", "", {{"sample_parallel", 2}}, {}, {}, false},
        {"rows", "", {{"spatial_parallel", 2}}, {}, {}, false},
        {"columns", "", {{"spatial_parallel_width", 2}}, {}, {}, false},
    };
}

// Why two modes of a family are no pair.
inline const std::map<std::string, std::string> one_of_a_family = {
    {"zero", "a run has one stage of ZeRO"},
    {"recompute", "a run computes again in one way"},
    {"schedule", "a pipeline has one schedule"},
    {"context", "context parallelism has one method"},
};

// Modes together: degrees of an axis multiply.
struct LayoutOfModes {
    std::vector<Mode> modes;

    std::string name() const {
        std::vector<std::string> names;
        for (const Mode& mode : modes)
            names.push_back(mode.name);
        return names.empty() ? "one rank" : fmt::format("{}", fmt::join(names, " + "));
    }
    Degrees degrees() const {
        Degrees all;
        for (const Mode& mode : modes)
            for (const auto& [axis, degree] : mode.degrees)
                all[axis] = std::max(all[axis], 1) * degree;
        return all;
    }
    int ranks() const {
        int product = 1;
        for (const auto& [axis, degree] : degrees())
            product *= degree;
        return product;
    }
    Words words(const Words& model) const {
        Words all = experiment(model);
        for (const auto& [axis, degree] : degrees())
            all.push_back(fmt::format("parallelism.{}_degree={}", axis, degree));
        for (const Mode& mode : modes)
            all.insert(all.end(), mode.words.begin(), mode.words.end());
        return all;
    }
    // Of the run on one rank.
    Words experiment(const Words& model) const {
        Words all = model;
        for (const Mode& mode : modes)
            all.insert(all.end(), mode.experiment.begin(), mode.experiment.end());
        return all;
    }
    // The modes that cut products alone: what the others add to them changes no bit.
    LayoutOfModes cutting() const {
        LayoutOfModes some;
        for (const Mode& mode : modes)
            if (!mode.same_bits) some.modes.push_back(mode);
        return some;
    }
    // Why there is no such layout; empty: there is.
    std::string impossible() const {
        for (std::size_t i = 0; i < modes.size(); ++i)
            for (std::size_t j = 0; j < i; ++j)
                if (!modes[i].family.empty() && modes[i].family == modes[j].family)
                    return one_of_a_family.at(modes[i].family);
        Degrees all = degrees();
        const auto has = [&](std::string_view mode) { return std::ranges::count(modes, mode, &Mode::name) > 0; };
        const int sharers = std::max(all["data_parallel"], 1) * std::max(all["data_parallel_replicate"], 1);
        if (!has("accumulation") && sharers > (has("interleaved") ? 2 : 4)) return "a step has 4 micro-batches";
        return {};
    }
};

inline LayoutOfModes layout_of(const std::vector<std::string_view>& names) {
    LayoutOfModes layout;
    for (const std::string_view name : names) {
        const std::vector<Mode> all = parallel_modes();
        const auto found = std::ranges::find(all, name, &Mode::name);
        if (found == all.end()) throw InternalError(std::string(name));
        layout.modes.push_back(*found);
    }
    return layout;
}

} // namespace tessera
