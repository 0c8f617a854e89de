// SPDX-License-Identifier: Apache-2.0
// Weights of one file.
#include "core/formats/weight_source.hpp"

#include "core/checkpoint/walk.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/layout/placement.hpp"

#include <fmt/format.h>

namespace tessera {

std::optional<std::int64_t> FileWeights::vocabulary() const {
    const StoredTensor* table = file_.find("embedding.weight");
    if (table == nullptr || table->shape.rank() != 2 || table->shape[0] < 1) return {};
    return table->shape[0];
}

void FileWeights::require(const std::string& name, const Shape& whole) const {
    const StoredTensor* stored = file_.find(name);
    if (stored == nullptr) {
        std::vector<std::string_view> names;
        for (const StoredTensor& tensor : file_.tensors())
            names.emplace_back(tensor.name);
        const std::string nearest = nearest_name(name, names);
        throw ConfigError(fmt::format("{} has no tensor '{}', which the model needs{}", path(), name,
                                      nearest.empty() ? "" : fmt::format("; there is '{}'", nearest)));
    }
    if (stored->shape != whole)
        throw ConfigError(
            fmt::format("{}: tensor '{}' is {}, the model wants {}", path(), name, stored->shape.text(), whole.text()));
    if (stored->dtype == DType::i32)
        throw ConfigError(fmt::format("{}: tensor '{}' is i32, the model wants numbers with a fraction", path(), name));
}

void FileWeights::read(const std::string& name, const Shape& whole, const std::vector<std::int64_t>& start,
                       const View& part) const {
    const StoredTensor& stored = *file_.find(name);
    for_each_run_of(whole, start, part, [&](std::int64_t first, const View& run) { file_.read(stored, first, run); });
}

std::vector<std::string> FileWeights::beside(const std::set<std::string>& names) const {
    std::vector<std::string> found;
    for (const StoredTensor& tensor : file_.tensors())
        if (!names.contains(tensor.name) && !is_optimizer_state(tensor.name)) found.push_back(tensor.name);
    return found;
}

void for_each_run_of(const Shape& whole, const std::vector<std::int64_t>& start, const View& part,
                     const std::function<void(std::int64_t, const View&)>& read) {
    Box box;
    for (int dim = 0; dim < whole.rank(); ++dim) {
        const std::int64_t begin = start[static_cast<std::size_t>(dim)];
        box.ranges.push_back({begin, begin + part.shape[dim]});
    }
    auto* memory = static_cast<std::byte*>(part.memory());
    for_each_run(whole, box, [&](std::int64_t in_whole, std::int64_t in_box, std::int64_t count) {
        read(in_whole, View(memory + in_box * bytes_of(part.dtype), {count}, part.dtype));
    });
}

} // namespace tessera
