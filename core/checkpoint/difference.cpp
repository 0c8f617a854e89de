// SPDX-License-Identifier: Apache-2.0
// Comparison bit by bit, a piece at a time; what differs is measured in double.
#include "core/checkpoint/difference.hpp"

#include "core/checkpoint/walk.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <limits>

namespace tessera {
namespace {

double number_of(const void* element, DType dtype) {
    if (dtype == DType::bf16) {
        BFloat16 value;
        std::memcpy(&value, element, sizeof value);
        return static_cast<float>(value);
    }
    if (dtype == DType::i32) {
        std::int32_t value = 0;
        std::memcpy(&value, element, sizeof value);
        return value;
    }
    float value = 0;
    std::memcpy(&value, element, sizeof value);
    return value;
}

std::vector<std::int64_t> index_of(std::int64_t element, const Shape& whole) {
    std::vector<std::int64_t> index(static_cast<std::size_t>(whole.rank()));
    for (int dim = whole.rank() - 1; dim >= 0; --dim) {
        index[static_cast<std::size_t>(dim)] = element % whole[dim];
        element /= whole[dim];
    }
    return index;
}

void take(TensorDifference& found, double a, double b, std::int64_t element, const Shape& whole) {
    if (found.elements++ == 0) {
        found.first = found.largest_at = index_of(element, whole);
        found.in_a = a;
        found.in_b = b;
    }
    constexpr double infinite = std::numeric_limits<double>::infinity();
    const bool both_no_numbers = std::isnan(a) && std::isnan(b); // other bits of it
    double absolute = both_no_numbers ? 0 : std::abs(a - b);
    if (std::isnan(absolute)) absolute = infinite;
    const double scale = std::max(std::abs(a), std::abs(b));
    const double relative = absolute == 0 ? 0 : std::isfinite(absolute) ? absolute / scale : infinite;
    if (absolute > found.largest_absolute) found.largest_at = index_of(element, whole);
    found.largest_absolute = std::max(found.largest_absolute, absolute);
    found.largest_relative = std::max(found.largest_relative, relative);
}

TensorDifference compare_elements(const Checkpoint& a, const Checkpoint& b, const SavedTensor& tensor) {
    TensorDifference found;
    found.name = tensor.name;
    found.of = tensor.whole.count();
    PieceMemory memory;
    const std::int64_t bytes = bytes_of(tensor.dtype);
    read_in_pieces(a, tensor, [&](const TensorPiece& piece, const View& in_a) {
        const View in_b = memory.view(piece, tensor.dtype);
        b.read(tensor.name, piece.box.start, in_b);
        const auto* one = static_cast<const std::byte*>(in_a.data);
        const auto* other = static_cast<const std::byte*>(in_b.data);
        if (std::memcmp(one, other, static_cast<std::size_t>(in_a.bytes())) == 0) return;
        for (std::int64_t i = 0; i < in_a.count(); ++i, one += bytes, other += bytes)
            if (std::memcmp(one, other, static_cast<std::size_t>(bytes)) != 0)
                take(found, number_of(one, tensor.dtype), number_of(other, tensor.dtype), piece.first + i,
                     tensor.whole);
    });
    return found;
}

const SavedTensor* find(const Checkpoint& checkpoint, std::string_view name) {
    for (const SavedTensor& tensor : checkpoint.tensors())
        if (tensor.name == name) return &tensor;
    return nullptr;
}

std::string text_of(const SavedTensor& tensor) {
    return fmt::format("{} {}", tensor.whole.text(), name_of(tensor.dtype));
}

std::string line_of(const TensorDifference& found) {
    if (!found.reason.empty()) return fmt::format("{}: {}\n", found.name, found.reason);
    return fmt::format("{}: {} of {} elements differ, by at most {:.3g} at ({}), relative {:.3g}\n", found.name,
                       found.elements, found.of, found.largest_absolute, fmt::join(found.largest_at, ", "),
                       found.largest_relative);
}

} // namespace

std::vector<TensorDifference> compare(const Checkpoint& a, const Checkpoint& b) {
    std::vector<TensorDifference> all;
    const auto add_reason = [&all](const std::string& name, std::string reason) {
        all.emplace_back();
        all.back().name = name;
        all.back().reason = std::move(reason);
    };
    for (const SavedTensor& tensor : a.tensors()) {
        const SavedTensor* other = b.has(tensor.name) ? find(b, tensor.name) : nullptr;
        if (other == nullptr)
            add_reason(tensor.name, fmt::format("only in {}", a.folder()));
        else if (other->whole != tensor.whole || other->dtype != tensor.dtype)
            add_reason(tensor.name,
                       fmt::format("{} in {}, {} in {}", text_of(tensor), a.folder(), text_of(*other), b.folder()));
        else if (TensorDifference found = compare_elements(a, b, tensor); found.elements > 0)
            all.push_back(std::move(found));
    }
    for (const SavedTensor& tensor : b.tensors())
        if (!a.has(tensor.name)) add_reason(tensor.name, fmt::format("only in {}", b.folder()));
    return all;
}

std::string describe_differences(const Checkpoint& a, const Checkpoint& b, const std::vector<TensorDifference>& found,
                                 std::size_t most) {
    std::string text;
    for (std::size_t i = 0; i < std::min(found.size(), most); ++i) {
        text += line_of(found[i]);
        if (i == 0 && found[i].reason.empty())
            text += fmt::format("  the first at ({}): {:.9g} and {:.9g}\n", fmt::join(found[i].first, ", "),
                                found[i].in_a, found[i].in_b);
    }
    if (found.size() > most) text += fmt::format("… and {} more\n", found.size() - most);
    std::vector<std::string> beside;
    if (a.step() != b.step()) beside.push_back(fmt::format("step ({} and {})", a.step(), b.step()));
    for (const auto& [key, value] : a.metadata()) {
        const auto other = b.metadata().find(key);
        if (other == b.metadata().end() || other->second != value) beside.push_back(key);
    }
    for (const auto& [key, value] : b.metadata())
        if (!a.metadata().contains(key)) beside.push_back(key);
    if (!beside.empty()) text += fmt::format("beside the tensors: {}\n", fmt::join(beside, ", "));
    text += found.empty() ? fmt::format("{} tensors: the same bits\n", a.tensors().size())
                          : fmt::format("{} of {} tensors differ\n", found.size(),
                                        std::max(a.tensors().size(), b.tensors().size()));
    return text;
}

} // namespace tessera
