// SPDX-License-Identifier: Apache-2.0
// What a training run leaves on all ranks of a mesh together, ranks being threads, and how far two runs are apart.
#pragma once

#include "core/run/evaluation.hpp"
#include "core/run/held_part.hpp"
#include "tests/core/tiny_training.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <mutex>
#include <set>

namespace tessera {

struct WholeRecord {
    std::vector<float> losses, norms; // by step
    float evaluation = 0;
    std::map<std::string, std::vector<float>> tensors; // weights and optimizer states after the last step
    std::set<std::string> unlike;                      // what ranks hold in other bits than the rank that saves it
    friend bool operator==(const WholeRecord&, const WholeRecord&) = default;
};

// Relative to the one: of losses, norms and the evaluation the largest, of tensors by their norms.
struct Distances {
    double loss = 0, norm = 0, tensor = 0;
};

// Keys' biases are left out: softmax takes no notice of them, so that Adam makes whole steps of their rounding.
inline Distances distances(const WholeRecord& one, const WholeRecord& other) {
    const auto relative = [](double a, double b) { return std::abs(a - b) / std::abs(a); };
    Distances found;
    found.loss = relative(one.evaluation, other.evaluation);
    for (std::size_t step = 0; step < one.losses.size(); ++step) {
        found.loss = std::max(found.loss, relative(one.losses[step], other.losses.at(step)));
        found.norm = std::max(found.norm, relative(one.norms[step], other.norms.at(step)));
    }
    EXPECT_EQ(one.tensors.size(), other.tensors.size());
    for (const auto& [name, a] : one.tensors) {
        const std::vector<float>& b = other.tensors.at(name);
        const bool of_keys = name.ends_with("attention.qkv.bias");
        double difference = 0, all = 0;
        for (std::size_t i = 0; i < a.size(); ++i) {
            if (of_keys && i * 3 / a.size() == 1) continue;
            difference += std::pow(static_cast<double>(a[i]) - b.at(i), 2);
            all += std::pow(static_cast<double>(a[i]), 2);
        }
        if (difference > 0) found.tensor = std::max(found.tensor, std::sqrt(difference / all));
    }
    return found;
}

class TrainingOnMesh {
public:
    TrainingOnMesh(const Config& config, int ranks, const TinyTraining::Change& change)
        : config_(config), mesh_(make_mesh(config, ranks)), change_(change) {}

    WholeRecord run() {
        run_as_threads(mesh_, [&](int rank, Groups groups) {
            TinyTraining training(config_, rank, std::move(groups), change_);
            const WholeRecord mine = train(training);
            Stream host = CpuStream(1);
            keep(training, mine, rank);
            training.groups.all().barrier(host);
            compare(training, mine);
        });
        return std::move(record_);
    }

private:
    static WholeRecord train(TinyTraining& training) {
        WholeRecord record;
        for (std::int64_t step = 0; step < training.experiment.steps; ++step) {
            training.step(step);
            record.losses.push_back(std::bit_cast<float>(training.loss()) * training.scale());
            record.norms.push_back(std::bit_cast<float>(training.norm()));
        }
        Stream host = CpuStream(1);
        const Ground ground{training.config, *training.dataset, training.groups, training.stream, host};
        record.evaluation = static_cast<float>(Evaluation(ground, training.experiment, training.memory).run(0).loss);
        return record;
    }

    // What a checkpoint would have of the rank.
    void keep(const TinyTraining& training, const WholeRecord& mine, int rank) {
        const std::vector<TensorPart> parts = parts_to_save(training.program, memory_of(training.executor), rank);
        const std::lock_guard lock(mutex_);
        record_.losses = mine.losses;
        record_.norms = mine.norms;
        record_.evaluation = mine.evaluation;
        for (const TensorPart& part : parts) {
            std::vector<float>& whole = record_.tensors[part.name];
            whole.resize(static_cast<std::size_t>(part.whole.count()));
            Box box;
            for (int dim = 0; dim < part.whole.rank(); ++dim) {
                const std::int64_t start = part.start[static_cast<std::size_t>(dim)];
                box.ranges.push_back({start, start + part.data.shape[dim]});
            }
            const auto* from = part.data.as<float>();
            for_each_run(part.whole, box, [&](std::int64_t in_whole, std::int64_t in_box, std::int64_t count) {
                std::copy_n(from + in_box, count, whole.begin() + in_whole);
            });
        }
    }

    // Whether the rank has the same numbers and, of what several hold, the same bits.
    void compare(const TinyTraining& training, const WholeRecord& mine) {
        const std::lock_guard lock(mutex_);
        if (mine.losses != record_.losses) record_.unlike.insert("losses");
        if (mine.norms != record_.norms) record_.unlike.insert("norms");
        if (mine.evaluation != record_.evaluation) record_.unlike.insert("evaluation");
        for (const ValueId id : training.program.model.graph.of_kind(ValueKind::parameter)) {
            const std::string& name = training.program.model.graph.value(id).name;
            const HeldPart part = part_at_rest(training.program, id);
            std::vector<float>& whole = record_.tensors.at(name);
            if (part.boxes.empty() || part.whole.count() != static_cast<std::int64_t>(whole.size())) continue; // padded
            const View held = view_at_rest(training.executor, training.program.plan, id);
            if (distance(part, held, View(whole.data(), part.whole, DType::f32)) != 0) record_.unlike.insert(name);
        }
    }

    const Config& config_;
    Mesh mesh_;
    const TinyTraining::Change& change_;
    std::mutex mutex_;
    WholeRecord record_;
};

inline WholeRecord train_on_mesh(const Config& config, int ranks, const TinyTraining::Change& change = {}) {
    return TrainingOnMesh(config, ranks, change).run();
}

} // namespace tessera
