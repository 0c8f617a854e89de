// SPDX-License-Identifier: Apache-2.0
// The sentence for an unknown name: "no op named 'sofmax'; did you mean 'softmax'?".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// The known name with the smallest edit distance to `name`; empty when none is near (distance over half its length).
std::string nearest_name(std::string_view name, const std::vector<std::string_view>& known);

// "no KIND named 'NAME'; did you mean 'NEAREST'?" or, with nothing near, "no KIND named 'NAME'; there are: a, b, c".
std::string no_such_name(std::string_view kind, std::string_view name, const std::vector<std::string_view>& known);

} // namespace tessera
