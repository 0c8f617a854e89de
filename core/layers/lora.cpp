// SPDX-License-Identifier: Apache-2.0
// Which layers are adapted. The adapters themselves are the Builder's.
#include "core/layers/lora.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fnmatch.h>

namespace tessera {

bool LoraOptions::adapts(const std::string& layer) const {
    return rank > 0 && std::ranges::any_of(targets, [&](const std::string& pattern) {
               return fnmatch(pattern.c_str(), layer.c_str(), 0) == 0;
           });
}

LoraOptions lora_options(const Config& config) {
    LoraOptions options;
    options.rank = config.get(lora_rank);
    constexpr std::int64_t largest = 4096;
    if (options.rank < 0 || options.rank > largest)
        config.refuse(lora_rank.name, fmt::format("must be from 0 to {}", largest));
    if (options.rank == 0) return options;
    options.alpha = config.get(lora_alpha);
    if (!(options.alpha > 0 && options.alpha < 1e6)) config.refuse(lora_alpha.name, "must be above 0 and below 1e6");
    options.targets = config.get(lora_targets);
    if (options.targets.empty()) config.refuse(lora_targets.name, "names no layer to adapt");
    return options;
}

} // namespace tessera
