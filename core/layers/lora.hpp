// SPDX-License-Identifier: Apache-2.0
// Low-rank adapters (Hu et al. 2021): beside a linear layer's weight, which stays as it is, two thin matrices are
// trained.
#pragma once

#include "core/config.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

inline constexpr Key<std::int64_t> lora_rank{"lora.rank", 0,
                                             "adapters of this rank are trained beside weights that stay; 0: none"};
inline constexpr Key<double> lora_alpha{"lora.alpha", 16, "what adapters add is multiplied by alpha / rank"};
inline constexpr Key<std::vector<std::string>> lora_targets{
    "lora.targets", "*.attention.qkv,*.attention.out",
    "linear layers with adapters: patterns of names, layers.3.mlp.up; * is any text"};

// y = x W^T + (alpha / rank) (x A^T) B^T: A "NAME.lora_a" (rank, K...), at random, B "NAME.lora_b" (N..., rank), from
// 0.
struct LoraOptions {
    std::int64_t rank = 0; // 0: none
    double alpha = 16;
    std::vector<std::string> targets{};

    double factor() const { return alpha / static_cast<double>(rank); }
    bool adapts(const std::string& layer) const;
};

// ConfigError for values that make no adapters, with the key's place.
LoraOptions lora_options(const Config& config);

} // namespace tessera
