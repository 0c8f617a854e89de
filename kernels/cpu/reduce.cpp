// SPDX-License-Identifier: Apache-2.0
// Sums in fixed orders on the CPU.
#include "kernels/reduce.hpp"

#include "kernels/cpu/column_sums.hpp"
#include "kernels/cpu/loops.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

// partial[c] = sum of x[row,c] over rows [begin, end), from first to last
template <class T> TESSERA_MULTIVERSION void sum_block(const T* x, std::int64_t columns, std::int64_t begin,
                                                       std::int64_t end, float* partial) {
    constexpr int wide = 4; // vectors side by side: enough sums in flight to hide the latency of an addition
    std::int64_t c = 0;
    for (; c + wide * simd::lanes <= columns; c += wide * simd::lanes) {
        Floats sums[wide] = {};
        for (std::int64_t row = begin; row < end; ++row)
            for (int i = 0; i < wide; ++i)
                sums[i] += simd::load(x + row * columns + c + i * simd::lanes);
        for (int i = 0; i < wide; ++i)
            simd::store(partial + c + i * simd::lanes, sums[i]);
    }
    for (; c < columns; c += simd::lanes) {
        const std::int64_t width = std::min<std::int64_t>(columns - c, simd::lanes);
        Floats sum{};
        for (std::int64_t row = begin; row < end; ++row) {
            const T* from = x + row * columns + c;
            sum += width == simd::lanes ? simd::load(from) : simd::load(from, width);
        }
        if (width == simd::lanes)
            simd::store(partial + c, sum);
        else
            simd::store(partial + c, sum, width);
    }
}

TESSERA_MULTIVERSION void add_partial_columns(const float* partial, std::int64_t blocks, std::int64_t stride,
                                              std::int64_t begin, std::int64_t end, float* y) {
    for (std::int64_t c = begin; c < end; ++c)
        y[c] = partial[c];
    for (std::int64_t block = 1; block < blocks; ++block)
        for (std::int64_t c = begin; c < end; ++c)
            y[c] += partial[block * stride + c];
}

TESSERA_MULTIVERSION float sum_of_squares(const float* x, std::int64_t count) {
    constexpr int wide = 4;
    Floats sums[wide] = {};
    std::int64_t i = 0;
    for (; i + wide * simd::lanes <= count; i += wide * simd::lanes)
        for (int k = 0; k < wide; ++k) {
            const Floats value = simd::load(x + i + k * simd::lanes);
            sums[k] += value * value;
        }
    for (; i + simd::lanes <= count; i += simd::lanes) {
        const Floats value = simd::load(x + i);
        sums[0] += value * value;
    }
    if (i < count) {
        const Floats value = simd::load(x + i, count - i);
        sums[1] += value * value;
    }
    return simd::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// A tree over one leaf of elements: pairs of neighbours until one is left, an odd last one moves up as it is.
constexpr std::int64_t leaf = 1024;

float sum_leaf(const float* x, std::int64_t count) {
    std::array<float, leaf> part;
    std::copy_n(x, count, part.begin());
    for (; count > 1; count = (count + 1) / 2) {
        for (std::int64_t i = 0; i < count / 2; ++i)
            part[static_cast<std::size_t>(i)] =
                part[static_cast<std::size_t>(2 * i)] + part[static_cast<std::size_t>(2 * i + 1)];
        if (count % 2 != 0) part[static_cast<std::size_t>(count / 2)] = part[static_cast<std::size_t>(count - 1)];
    }
    return part[0];
}

float sum_tree(const float* x, std::int64_t count) {
    if (count <= leaf) return sum_leaf(x, count);
    const auto left = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(count - 1)));
    return sum_tree(x, left) + sum_tree(x + left, count - left);
}

} // namespace

void add_partial_sums(const CpuStream& stream, const float* partial, std::int64_t blocks, std::int64_t stride,
                      std::int64_t columns, float* y) {
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        add_partial_columns(partial, blocks, stride, begin, end, y);
    };
    stream.parallel(columns, 1024, std::ref(work));
}

std::int64_t sum_rows_workspace_bytes(const CpuStream&, std::int64_t rows, std::int64_t columns) {
    return row_blocks(rows) * columns * bytes_of(DType::f32);
}

void sum_rows(CpuStream& stream, ConstView x, View y, View workspace) {
    const std::int64_t columns = y.count();
    const std::int64_t rows = columns == 0 ? 0 : x.count() / columns;
    check_count("sum_rows", "x", x, rows * columns);
    check_workspace("sum_rows", workspace, sum_rows_workspace_bytes(stream, rows, columns));
    if (rows == 0) return std::fill_n(y.as<float>(), columns, 0.0f), void();
    auto* partial = static_cast<float*>(workspace.memory());
    const std::int64_t block = rows_per_block(rows);
    with_float_type("sum_rows", x.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b)
                sum_block(x.as<T>(), columns, b * block, std::min(rows, (b + 1) * block), partial + b * columns);
        };
        stream.parallel(row_blocks(rows), rows_per_thread(block * columns, 131072), std::ref(work));
    });
    add_partial_sums(stream, partial, row_blocks(rows), columns, columns, y.as<float>());
}

void square_sums(CpuStream& stream, std::span<const View> x, std::span<const View> blocks) {
    check_tensors("square_sums", "blocks", blocks.size(), x.size());
    for (std::size_t tensor = 0; tensor < x.size(); ++tensor) {
        const std::int64_t count = x[tensor].count();
        check_count("square_sums", "blocks", blocks[tensor], (count + square_sum_block - 1) / square_sum_block);
        const auto* from = x[tensor].as<float>();
        auto* to = blocks[tensor].as<float>();
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b) {
                const std::int64_t first = b * square_sum_block;
                to[b] = sum_of_squares(from + first, std::min(square_sum_block, count - first));
            }
        };
        stream.parallel(blocks[tensor].count(), 131072 / square_sum_block, std::ref(work));
    }
}

void sum(CpuStream&, ConstView x, View y) {
    check_count("sum", "the result", y, 1);
    *y.as<float>() = x.count() == 0 ? 0.0f : sum_tree(x.as<float>(), x.count());
}

void sums(CpuStream& stream, std::span<const View> x, View y) {
    check_count("sums", "the result", y, static_cast<std::int64_t>(x.size()));
    for (std::size_t tensor = 0; tensor < x.size(); ++tensor)
        sum(stream, x[tensor], View(y.as<float>() + tensor, {}, DType::f32));
}

} // namespace tessera::kernels
