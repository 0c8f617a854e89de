// SPDX-License-Identifier: Apache-2.0
// The checks of the kernels and their sentences.
#include "kernels/check.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::kernels {

void check_count(std::string_view kernel, std::string_view name, const ConstView& view, std::int64_t count) {
    if (view.count() != count)
        throw InternalError(fmt::format("{}: {} has {} elements, {} are expected", kernel, name, view.count(), count));
}

void check_tensors(std::string_view kernel, std::string_view name, std::size_t found, std::size_t expected) {
    if (found != expected)
        throw InternalError(fmt::format("{}: {} are {} tensors, {} are expected", kernel, name, found, expected));
}

void check_rows(std::string_view kernel, const ConstView& x, const ConstView& row) {
    if (row.count() == 0 ? x.count() != 0 : x.count() % row.count() != 0)
        throw InternalError(
            fmt::format("{}: {} elements are no multiple of a row of {}", kernel, x.count(), row.count()));
}

void check_probability(std::string_view kernel, float probability) {
    if (!(probability >= 0 && probability <= 1))
        throw InternalError(fmt::format("{}: a probability of {}, expected one in [0, 1]", kernel, probability));
}

std::int64_t classes_in(std::string_view kernel, VocabularyShard shard, std::int64_t count) {
    if (shard.first < 0)
        throw InternalError(fmt::format("{}: a shard from {} of {} classes", kernel, shard.first, shard.classes));
    return std::clamp<std::int64_t>(shard.classes - shard.first, 0, count);
}

void check_row_classes(std::string_view kernel, std::int64_t classes, std::int64_t columns) {
    if (classes < 0 || classes > columns)
        throw InternalError(fmt::format("{}: {} classes in rows of {}", kernel, classes, columns));
}

void check_workspace(std::string_view kernel, const ConstView& workspace, std::int64_t bytes) {
    const std::int64_t found = workspace ? workspace.bytes() : 0;
    if (found < bytes)
        throw InternalError(fmt::format("{}: a workspace of {} bytes, {} are needed", kernel, found, bytes));
}

void refuse_dtype(std::string_view kernel, DType dtype) {
    throw InternalError(fmt::format("{}: element type {}, expected f32, bf16 or f16", kernel, name_of(dtype)));
}

std::string outside_vocabulary(std::string_view name, std::int64_t number, std::int64_t position, std::int64_t size) {
    return fmt::format("{} {} at position {} is outside the vocabulary of {}", name, number, position, size);
}

void check_classes(std::string_view name, ConstView numbers, std::int64_t size, std::int32_t allowed) {
    const auto* number = numbers.as<std::int32_t>();
    const std::int64_t count = numbers.count();
    bool right = true; // one pass that vectorises; the culprit is looked for only when there is one
    for (std::int64_t i = 0; i < count; ++i)
        right &= (number[i] == allowed) | ((number[i] >= 0) & (number[i] < size));
    if (right) return;
    const auto* wrong = std::find_if(
        number, number + count, [&](std::int32_t value) { return value != allowed && (value < 0 || value >= size); });
    throw ConfigError(outside_vocabulary(name, *wrong, wrong - number, size));
}

} // namespace tessera::kernels
