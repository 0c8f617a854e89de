// SPDX-License-Identifier: Apache-2.0
// A model that its config puts together, layer by layer: [[model.layers]].
#pragma once

#include "core/model.hpp"

namespace tessera {

// A layer's inputs are layers above it and fields of the data. Layers are numbered by their products, so that pipelines
// can cut them. ConfigError, with the place, for layers that do not fit each other, that nothing uses, or without a
// loss.
// Whether some layer goes through a sequence step by step: it writes text so, a token at a time.
bool is_recurrent(const Config& config);

Model build_layered_model(const Config& config, const ModelSizes& sizes, Purpose purpose);

} // namespace tessera
