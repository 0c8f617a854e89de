// SPDX-License-Identifier: Apache-2.0
// A layer, an optimizer and a reader that Tessera does not have.
#pragma once

#include "core/extension.hpp"

tessera::layers::LayerType softplus_layer();
tessera::OptimizerType sign_descent();
tessera::ReaderType moons_reader();
std::vector<tessera::KeyInfo> moons_keys();
