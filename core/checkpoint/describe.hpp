// SPDX-License-Identifier: Apache-2.0
// A checkpoint as text for people: what `tessera checkpoint inspect` prints.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>

namespace tessera {

// Step, ranks and bytes; a table of tensors with shape, dtype and MiB; the metadata: short texts as they are, then the
// one called "config" whole, and of other long texts the size. Reads no tensor data.
std::string describe(const Checkpoint& checkpoint);

// The same as one line of JSON, with every metadata text whole:
// {"folder":…,"step":…,"ranks":…,"tensors":[{"name":…,"dtype":"f32","shape":[…],"bytes":…},…],"metadata":{…}}
std::string describe_json(const Checkpoint& checkpoint);

} // namespace tessera
