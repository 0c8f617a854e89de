// SPDX-License-Identifier: Apache-2.0
// Products: cuts one into tasks for threads and blocks for caches, and says what memory that takes. An element of c is
// always one chain of multiply-adds in the order of k, so the cuts are free to follow the number of threads.
#include "kernels/matmul.hpp"

#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/matmul_check.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <limits>

namespace tessera::kernels {
namespace {

constexpr std::int64_t cached_words = 512;           // along k: a panel of b (32 columns) streams from the second cache
constexpr std::int64_t cached_block_words = 98304;   // of a: 384 KB of the second cache
constexpr std::int64_t packed_chunk_words = 1 << 17; // of b: 512 KB, still near when read
constexpr double task_operations = 4e5;              // a thread is worth waking for about 2 us of work

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Range {
    std::int64_t begin, end;
    std::int64_t count() const { return end - begin; }
};

// The index-th of `parts` even parts of [0, count), cut at multiples of `unit`.
Range part_of(std::int64_t count, std::int64_t unit, std::int64_t parts, std::int64_t index) {
    const std::int64_t units = ceil_divide(count, unit);
    return {std::min(count, units * index / parts * unit), std::min(count, units * (index + 1) / parts * unit)};
}

// Between words of a zipped group of rows: whole vectors, and an odd number, or few sets of the cache would take all.
std::int64_t zipped_stride(std::int64_t rows) { return (ceil_divide(rows, simd::lanes) | 1) * simd::lanes; }

// A product's tasks, each a block of c, and a task's cache blocks.
struct Cuts {
    MatmulOperand a, b;
    TileOrder a_order;
    std::int64_t words, block_words;      // along k, and at one time
    std::int64_t row_group;               // rows of a at one time
    std::int64_t chunk_columns;           // columns of b packed at one time
    std::int64_t row_tasks, column_tasks; // each task packs what it needs: threads meet only at the end

    std::int64_t tasks() const { return row_tasks * column_tasks; }
    std::int64_t chunk_floats() const { return chunk_columns * words; }
    bool packs_a() const { return a.stride_in_place() == 0; }
    std::int64_t group_floats() const {
        if (!packs_a()) return 0;
        return (a_order == TileOrder::packed ? row_group : zipped_stride(row_group)) * block_words + 16;
    }
    std::int64_t task_bytes() const { return align_up(4 * (chunk_floats() + group_floats())); }
};

void share_tasks(const Matmul& product, int threads, Cuts& cuts) {
    const double operations =
        2.0 * static_cast<double>(product.m) * static_cast<double>(product.n) * static_cast<double>(product.k);
    const auto tasks = std::clamp<std::int64_t>(static_cast<std::int64_t>(operations / task_operations), 1, threads);
    const std::int64_t rows = ceil_divide(product.m, tile_rows), columns = ceil_divide(product.n, panel_columns);
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (std::int64_t row_tasks = 1; row_tasks <= tasks; ++row_tasks) {
        const std::int64_t column_tasks = tasks / row_tasks;
        // Of the longest task, in tiles: to pack a panel costs about as much as one tile.
        const std::int64_t cost = (ceil_divide(rows, row_tasks) + 1) * ceil_divide(columns, column_tasks);
        if (cost >= least) continue;
        least = cost;
        cuts.row_tasks = row_tasks;
        cuts.column_tasks = column_tasks;
    }
}

Cuts cuts_of(const Matmul& product, int threads) {
    const bool pairs = product.input == DType::bf16 && matmul_has_fast_bf16();
    Cuts cuts{};
    cuts.a = {nullptr, product.m, product.k, product.transpose_a, product.input, pairs};
    cuts.b = {nullptr, product.n, product.k, !product.transpose_b, product.input_b(), pairs};
    // A transposed a is read as it lies; its pairs are zipped, many rows at a time, so that whole vectors are moved.
    if (product.transpose_a && (pairs || !cuts.packs_a()))
        cuts.a_order = TileOrder::columns;
    else
        cuts.a_order = cuts.packs_a() ? TileOrder::packed : TileOrder::rows;
    cuts.words = cuts.a.words();
    // What is written between two blocks of k is rounded to c's dtype: a narrow c takes all of k at once.
    const std::int64_t blocks = product.output != DType::f32 ? 1 : ceil_divide(cuts.words, cached_words);
    cuts.block_words = std::max<std::int64_t>(1, ceil_divide(cuts.words, std::max<std::int64_t>(blocks, 1)));
    cuts.row_group = std::clamp<std::int64_t>(cached_block_words / cuts.block_words / tile_rows, 1, 32) * tile_rows;
    share_tasks(product, threads, cuts);
    const std::int64_t panels = packed_chunk_words / (panel_columns * std::max<std::int64_t>(cuts.words, 1));
    const std::int64_t task_panels = ceil_divide(ceil_divide(product.n, panel_columns), cuts.column_tasks);
    cuts.chunk_columns = std::clamp<std::int64_t>(panels, 1, std::max<std::int64_t>(task_panels, 1)) * panel_columns;
    return cuts;
}

// c of `rows` and `columns`, where packed_b holds those columns of b.
void multiply_chunk(const Matmul& product, const Cuts& cuts, Range rows, Range columns, const float* packed_b,
                    float* packed_a, const float* bias, const View& c) {
    MatmulBlock block{};
    block.a_order = cuts.a_order;
    block.a_stride = cuts.a.stride_in_place();
    block.b_panel_stride = panel_columns * cuts.words;
    block.columns = columns.count();
    block.c_stride = product.n;
    block.output = product.output;
    for (std::int64_t row = rows.begin; row < rows.end; row += cuts.row_group) {
        block.rows = std::min(cuts.row_group, rows.end - row);
        std::int64_t word = 0;
        do { // once at least, as a product over no k still writes c
            block.words = std::min(cuts.block_words, cuts.words - word);
            if (cuts.a_order == TileOrder::packed) {
                for (std::int64_t tile = 0, size = 0; tile < block.rows; tile += size) {
                    size = next_tile_rows(block.rows - tile);
                    pack_panel(cuts.a, row + tile, size, size, word, block.words, packed_a + tile * block.words);
                }
                block.a = packed_a;
            } else if (cuts.packs_a()) {
                block.a_stride = zipped_stride(block.rows);
                pack_panel(cuts.a, row, block.rows, block.a_stride, word, block.words, packed_a);
                block.a = packed_a;
            } else {
                const std::int64_t stride = block.a_stride;
                const bool rows_first = cuts.a_order == TileOrder::rows;
                block.a =
                    static_cast<const float*>(cuts.a.data) + (rows_first ? row * stride + word : word * stride + row);
            }
            block.b = packed_b + word * panel_columns;
            block.bias = bias != nullptr && word == 0 ? bias + columns.begin : nullptr;
            block.read_c = product.accumulate || word > 0;
            block.c =
                static_cast<std::byte*>(c.memory()) + (row * product.n + columns.begin) * bytes_of(product.output);
            (cuts.a.pairs ? multiply_block_bf16 : multiply_block_f32)(block);
            word += cuts.block_words;
        } while (word < cuts.words);
    }
}

void run_task(const Matmul& product, const Cuts& cuts, std::int64_t task, float* packed_b, const float* bias,
              const View& c) {
    const Range rows = part_of(product.m, tile_rows, cuts.row_tasks, task / cuts.column_tasks);
    const Range columns = part_of(product.n, panel_columns, cuts.column_tasks, task % cuts.column_tasks);
    float* packed_a = packed_b + cuts.chunk_floats();
    for (std::int64_t chunk = columns.begin; chunk < columns.end; chunk += cuts.chunk_columns) {
        const Range part{chunk, std::min(columns.end, chunk + cuts.chunk_columns)};
        for (std::int64_t column = part.begin; column < part.end; column += panel_columns)
            pack_panel(cuts.b, column, std::min<std::int64_t>(panel_columns, part.end - column), panel_columns, 0,
                       cuts.words, packed_b + (column - part.begin) * cuts.words);
        multiply_chunk(product, cuts, rows, part, packed_b, packed_a, bias, c);
    }
}

} // namespace

bool matmul_has_fast_bf16() {
    static const bool fast = has_bf16_instructions();
    return fast;
}

bool matmul_has_f8(const CpuStream&) { return true; }

std::int64_t matmul_workspace_bytes(const CpuStream& stream, const Matmul& product) {
    check_dtypes(product);
    const Cuts cuts = cuts_of(product, stream.threads());
    return cuts.tasks() * cuts.task_bytes();
}

void matmul(CpuStream& stream, const Matmul& product, ConstView a, ConstView b, ConstView bias, View c, View workspace,
            const MatmulScales& scales) {
    Cuts cuts = cuts_of(product, stream.threads());
    check_operands(product, a, b, bias, c, workspace, cuts.tasks() * cuts.task_bytes(), scales);
    cuts.a.data = a.data;
    cuts.b.data = b.data;
    if (scales.a) cuts.a.factor = *scales.a.as<float>() * *scales.b.as<float>();
    const float* bias_data = product.bias ? bias.as<float>() : nullptr;
    stream.parallel(cuts.tasks(), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            std::byte* memory = static_cast<std::byte*>(workspace.memory()) + task * cuts.task_bytes();
            run_task(product, cuts, task, reinterpret_cast<float*>(memory), bias_data, c);
        }
    });
}

} // namespace tessera::kernels
