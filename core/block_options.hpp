// SPDX-License-Identifier: Apache-2.0
// The keys that all transformers of model.type have, as options of their blocks.
#pragma once

#include "core/config.hpp"
#include "core/layers/layers.hpp"

namespace tessera {

// Of a model of so many blocks; attention is causal.
layers::TransformerBlockOptions block_options(const Config& config, std::int64_t blocks);
std::int64_t positive(const Config& config, const Key<std::int64_t>& key); // ConfigError for less than 1

} // namespace tessera
