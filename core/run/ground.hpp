// SPDX-License-Identifier: Apache-2.0
// What a run stands on.
#pragma once

#include "core/config.hpp"
#include "core/data/dataset.hpp"
#include "parallel/communication/groups.hpp"

namespace tessera {

// All of it outlives whoever is given it.
struct Ground {
    const Config& config;
    const Dataset& dataset;
    Groups& groups;
    Stream& stream; // where the graph runs, and the axes of `groups` with it
    Stream& host;   // where groups.all() exchanges what the host decides
};

} // namespace tessera
