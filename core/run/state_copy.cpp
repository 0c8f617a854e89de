// SPDX-License-Identifier: Apache-2.0
// Weights and states one behind the other, whole as they lie in the rank's memory: no rank needs another to go back.
#include "core/run/state_copy.hpp"

#include "kernels/copy.hpp"

#include <cstring>

namespace tessera {

std::int64_t StateCopy::bytes_for(const Program& program) {
    const ViewOf type_of = planned(program);
    std::int64_t bytes = 0;
    for (const ValueId id : persistent_values(program.model.graph))
        bytes += align_up(type_of(id).bytes());
    return bytes;
}

StateCopy::StateCopy(const Program& program, const Executor& executor)
    : executor_(executor),
      memory_(std::visit([&](const auto& s) { return allocate_host(s, bytes_for(program)); }, executor.stream())) {
    std::memset(memory_.data(), 0, static_cast<std::size_t>(memory_.bytes()));
    std::byte* place = memory_.data();
    for (const ValueId id : persistent_values(program.model.graph)) {
        const View view = executor.view(id);
        views_[id] = View(place, view.shape, view.dtype);
        place += align_up(view.bytes());
    }
}

void StateCopy::take() {
    for (const auto& [id, copy] : views_)
        if (copy.count() > 0)
            std::visit([&](auto& s) { kernels::download(s, executor_.view(id), copy); }, executor_.stream());
}

void StateCopy::put_back() const {
    for (const auto& [id, copy] : views_)
        if (copy.count() > 0)
            std::visit([&](auto& s) { kernels::upload(s, copy, executor_.view(id)); }, executor_.stream());
}

} // namespace tessera
