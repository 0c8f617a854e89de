// SPDX-License-Identifier: Apache-2.0
// Checkpoint::verify stops at the first damage; here each tensor is tried for itself when it has found one.
#include "core/checkpoint/damage.hpp"

#include "core/checkpoint/walk.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <functional>

namespace tessera {
namespace {

// The first that fails says why; a SystemError passes on.
std::string complaint_of(const std::function<void()>& read) {
    try {
        read();
        return "";
    } catch (const ConfigError& error) {
        return error.what();
    }
}

} // namespace

std::vector<std::string> damage_of(const std::string& folder) {
    std::vector<std::string> found;
    const auto note = [&found](const std::string& sentence) { // a file that cannot be opened is said once
        if (!sentence.empty() && std::find(found.begin(), found.end(), sentence) == found.end())
            found.push_back(sentence);
    };
    note(complaint_of([&] {
        const Checkpoint checkpoint(folder);
        const std::string first = complaint_of([&] { checkpoint.verify(); });
        note(first);
        if (first.empty()) return;
        for (const SavedTensor& tensor : checkpoint.tensors())
            note(complaint_of([&] { read_in_pieces(checkpoint, tensor, [](const TensorPiece&, const View&) {}); }));
    }));
    return found;
}

} // namespace tessera
