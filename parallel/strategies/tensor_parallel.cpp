// SPDX-License-Identifier: Apache-2.0
// Which dim of a parameter is shared out, by its role.
#include "parallel/strategies/tensor_parallel.hpp"

#include "kernels/error.hpp"

#include <array>
#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

enum class Shares { evenly, unevenly, if_even }; // refused where not even, taken as they are, or whole on every rank

struct Role {
    std::string_view name;
    int dim;
    std::string_view shares; // what a rank has some of
    Shares how;
};

// Weights of norms and biases that are added to sums are whole on every rank.
constexpr std::array roles = {
    Role{"channels_if_even", 3, "channels", Shares::if_even}, // (K, R, S, C) and (N, H, W, C)
    Role{"column", 0, "hidden units", Shares::evenly},
    Role{"column_if_even", 0, "hidden units", Shares::if_even},
    Role{"expert_column", 1, "hidden units", Shares::evenly}, // (E, H, C) and (E, H)
    Role{"expert_row", 2, "hidden units", Shares::evenly},    // (E, C, H)
    Role{"head", 1, "heads", Shares::evenly},                 // (3, H, D, C) and (3, H, D)
    Role{"head_bias", 1, "heads", Shares::evenly},            // (buckets, H)
    Role{"head_group", 0, "groups of heads", Shares::evenly}, // (G, R + 2, D, C) and (G, R + 2, D)
    Role{"head_output", 1, "heads", Shares::evenly},          // (C, H, D) and (C, G, R, D)
    Role{"row", 1, "hidden units", Shares::evenly},
    Role{"row_if_even", 1, "hidden units", Shares::if_even},
    Role{"vocabulary", 0, "tokens of the vocabulary", Shares::unevenly},
};

std::optional<Role> role_named(std::string_view name) {
    for (const Role& role : roles)
        if (role.name == name) return role;
    return std::nullopt;
}

} // namespace

ParameterPlacement TensorParallel::place(const ParameterDescription& parameter) const {
    const std::optional<Role> role = role_named(parameter.role);
    Placement there = role ? Placement::shard(role->dim) : Placement::replicate();
    if (role) {
        const std::int64_t size = parameter.shape[role->dim];
        const bool even = size % ranks_ == 0;
        if (!even && role->how == Shares::if_even) return {};
        if (size < ranks_ || (!even && role->how == Shares::evenly))
            throw ConfigError(fmt::format("'{}' has {} {}: they cannot be shared out evenly over the {} ranks of mesh "
                                          "axis '{}'",
                                          parameter.name, size, role->shares, ranks_, axis_));
    }
    Placement use = there;
    if (sequence_ && parameter.role == "position") { // those of a rank's part of the sequence
        use = Placement::shard(0);
        if (!zigzag_) there = use; // else no run of positions is a rank's part
    }
    return {.rest = there, .use = use, .gradient = there, .state = there};
}

Placement TensorParallel::activation() const { return sequence_ ? Placement::shard(1) : Placement::replicate(); }

} // namespace tessera
