// SPDX-License-Identifier: Apache-2.0
// What a search asks of a single layout: a bound of what its inner axes take, an estimate of all, and its plan.
#pragma once

#include "core/run/layout_bounds.hpp"
#include "core/run/layout_choices.hpp"
#include "core/run/prediction.hpp"

namespace tessera {

struct Estimate {
    double seconds = 0; // of a step; not known where the memory is too large
    double memory = 0;  // bytes of the rank that needs most
};

struct PlannedLayout {
    Experiment experiment; // of the rank with most micro-batches
    Prediction prediction; // its cost is not known where the memory is too large
};

// Each may throw ConfigError: the model cannot be sharded so.
class LayoutPlanner {
public:
    // All but the config outlive it.
    LayoutPlanner(const Config& config, const SearchOptions& options, const Machine& machine, const Dataset* dataset,
                  const Stream& stream);

    // Beyond doubt.
    bool is_too_large(double memory) const;

    // Of a micro-batch of so many rows on the inner axes.
    InnerCost cost_of(const LayoutGroup& group, std::int64_t rows, const std::string& recompute) const;
    // Of a deep model from a few of its equal blocks, of any other as it is. Without evaluations: they take time to
    // plan, and seldom more memory than training.
    Estimate estimate(const Choices& choices);
    // As it is. Reads the keys of training, too, which say nothing of a layout.
    PlannedLayout plan(const Choices& choices, bool evaluates);

    std::int64_t blocks() const { return blocks_; }
    // Once something was planned.
    void refuse_unread() const { config_.refuse_unread("command line"); }

private:
    PlannedLayout plan(const Choices& choices, std::int64_t blocks, bool evaluates = false);

    const Config& asked_;
    Config config_; // with the choices of the moment
    const SearchOptions& options_;
    const Machine& machine_;
    const Dataset* dataset_;
    const Stream& stream_;
    std::int64_t blocks_; // equal_blocks()
};

} // namespace tessera
