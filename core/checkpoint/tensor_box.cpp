// SPDX-License-Identifier: Apache-2.0
// Boxes: intersection, copies between row-major arrays, and the cut into blocks.
#include "core/checkpoint/tensor_box.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

std::size_t index(int dim) { return static_cast<std::size_t>(dim); }

// The place of `region`'s first element in a row-major array of `box`.
std::int64_t offset_in(const TensorBox& box, const TensorBox& region) {
    std::int64_t offset = 0;
    for (int dim = 0; dim < box.count.rank(); ++dim)
        offset = offset * box.count[dim] + region.start[index(dim)] - box.start[index(dim)];
    return offset;
}

} // namespace

std::string TensorBox::text() const { return fmt::format("{} at ({})", count.text(), fmt::join(start, ", ")); }

TensorBox whole_box(const Shape& whole) { return {std::vector<std::int64_t>(index(whole.rank()), 0), whole}; }

TensorBox intersection(const TensorBox& a, const TensorBox& b) {
    TensorBox common;
    for (int dim = 0; dim < a.count.rank(); ++dim) {
        const std::int64_t first = std::max(a.start[index(dim)], b.start[index(dim)]);
        const std::int64_t end = std::min(a.end(dim), b.end(dim));
        common.start.push_back(first);
        common.count.append(std::max<std::int64_t>(0, end - first));
    }
    return common;
}

void copy_region(const TensorBox& region, const void* source, const TensorBox& source_box, void* target,
                 const TensorBox& target_box, std::int64_t element_bytes) {
    if (region.count.count() == 0) return;
    const int rank = region.count.rank();
    int run_dim = rank; // dims from here on are one run of bytes in both arrays
    std::int64_t run_bytes = element_bytes;
    while (run_dim > 0) {
        --run_dim;
        run_bytes *= region.count[run_dim];
        const bool spans_both =
            region.count[run_dim] == source_box.count[run_dim] && region.count[run_dim] == target_box.count[run_dim];
        if (!spans_both) break;
    }
    TensorBox run = region; // its start walks over all indices of the dims before run_dim
    while (true) {
        std::memcpy(static_cast<std::byte*>(target) + offset_in(target_box, run) * element_bytes,
                    static_cast<const std::byte*>(source) + offset_in(source_box, run) * element_bytes,
                    static_cast<std::size_t>(run_bytes));
        int dim = run_dim - 1;
        while (dim >= 0 && ++run.start[index(dim)] == region.end(dim)) {
            run.start[index(dim)] = region.start[index(dim)];
            --dim;
        }
        if (dim < 0) return;
    }
}

std::optional<std::int64_t> place_of_run(const TensorBox& region, const TensorBox& box) {
    bool spans = true; // all dims behind this one are whole in both
    for (int dim = region.count.rank() - 1; dim >= 0; --dim) {
        if (!spans && region.count[dim] != 1) return {};
        spans = spans && region.count[dim] == box.count[dim];
    }
    return offset_in(box, region);
}

Blocks::Blocks(const Shape& count, DType dtype, std::int64_t most_bytes)
    : count_(count), element_bytes_(bytes_of(dtype)) {
    row_bytes_ = element_bytes_;
    if (count.rank() == 0) return;
    while (cut_dim_ + 1 < count.rank() && count.count(cut_dim_ + 1, count.rank()) * element_bytes_ > most_bytes)
        ++cut_dim_;
    row_bytes_ = count.count(cut_dim_ + 1, count.rank()) * element_bytes_;
    rows_per_block_ = std::max<std::int64_t>(1, most_bytes / row_bytes_);
    leads_ = count.count(0, cut_dim_);
    blocks_per_lead_ = (count[cut_dim_] + rows_per_block_ - 1) / rows_per_block_;
}

TensorBox Blocks::box(std::int64_t block) const {
    TensorBox box = whole_box(count_);
    if (count_.rank() == 0) return box;
    std::int64_t lead = block / blocks_per_lead_;
    for (int dim = cut_dim_ - 1; dim >= 0; --dim) {
        box.start[index(dim)] = lead % count_[dim];
        box.count.set(dim, 1);
        lead /= count_[dim];
    }
    const std::int64_t first = block % blocks_per_lead_ * rows_per_block_;
    box.start[index(cut_dim_)] = first;
    box.count.set(cut_dim_, std::min(rows_per_block_, count_[cut_dim_] - first));
    return box;
}

std::int64_t Blocks::first_byte(std::int64_t block) const {
    if (count_.rank() == 0) return 0;
    const std::int64_t first_row =
        block / blocks_per_lead_ * count_[cut_dim_] + block % blocks_per_lead_ * rows_per_block_;
    return first_row * row_bytes_;
}

} // namespace tessera
