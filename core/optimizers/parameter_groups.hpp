// SPDX-License-Identifier: Apache-2.0
// Parameters by the patterns of their names: another learning rate or weight decay than the others', or none at all.
#pragma once

#include "core/config.hpp"
#include "core/graph/graph.hpp"

#include <optional>

namespace tessera {

inline constexpr Key<std::vector<std::string>> group_parameters{
    "optimizer.groups[].parameters", "",
    "names of parameters, * for any letters: [\"layers.0.*\", \"*.bias\"]; the first table that fits one counts"};
inline constexpr Key<double> group_rate_factor{"optimizer.groups[].lr_factor", 1,
                                               "of the learning rate, for these parameters"};
inline constexpr Key<double> group_decay{
    "optimizer.groups[].weight_decay", 0,
    "weight decay of these parameters, vectors among them; not set: optimizer.weight_decay, on matrices and tables"};
inline constexpr Key<bool> group_freeze{
    "optimizer.groups[].freeze", false,
    "these parameters stay as they are: they have neither gradient nor state, and nothing is sent for them"};

struct ParameterSettings {
    double rate_factor = 1;
    std::optional<double> weight_decay{}; // none: the optimizer's, where it applies
    std::size_t group = 0;                // 0: in no table; else its number from 1
    bool operator==(const ParameterSettings&) const = default;
};

// Freezes the parameters that the tables say, and gives the settings of the others, in the order of trained(). Tables
// see the parameters that are trained before: of adapters' models only these. ConfigError, with the place, for a table
// that fits none of them, and where nothing is left to train.
std::vector<ParameterSettings> apply_parameter_groups(Graph& graph, const Config& config);

// Whether `name` is what the pattern says, in which each * stands for any letters, or none.
bool fits(std::string_view pattern, std::string_view name);

} // namespace tessera
