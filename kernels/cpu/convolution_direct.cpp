// SPDX-License-Identifier: Apache-2.0
// Convolution without gathering: a tile's rows are places in the image, one register for each, and the words of a
// window are found at the same offsets from all of them. A sum is one chain, in the order of the gathered product's.
#include "kernels/cpu/convolution_direct.hpp"

#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/tiles.hpp"
#include "kernels/memory.hpp"

#include <cstring>

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t piece_bytes = 256 << 10;           // of source and target: a part of the second cache
constexpr std::int64_t most_rows = 2048, least_rows = 96; // of a piece, where images let it have so many
constexpr double task_operations = 4e5;                   // a thread is worth waking for about 2 us of work

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// c[c_rows[i] + x] = [c] [+ bias[x]] + sum over segments s and k < count of
//     a[a_rows[i] + a_at[s] + k * a_step] * b[b_at[s] + k * b_step + x / 32 * b_panel + x % 32]
struct Tiles {
    const float* a;
    const std::int64_t* a_rows;
    std::int64_t rows;
    const std::int64_t *a_at, *b_at;
    std::int64_t segments, count, a_step;
    const float* b;
    std::int64_t b_step, b_panel, columns;
    const float* bias; // null: none
    bool read_c;
    float* c;
    const std::int64_t* c_rows;
};

template <int R, int V>
TESSERA_INLINE void multiply_tile(const Tiles& of, std::int64_t row, std::int64_t column, const float* bias) {
    Floats sum[R][V];
    const std::int64_t columns = of.columns - column;
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int r = index / V, x = index % V * simd::lanes;
        sum[r][index % V] = simd::load(bias + x);
        if (!of.read_c) return;
        const float* const c = of.c + of.c_rows[row + r] + column + x;
        sum[r][index % V] += columns - x >= simd::lanes ? simd::load(c) : simd::load(c, columns - x);
    });
    const float* from[R];
    simd::unrolled<R>([&](auto r) TESSERA_INLINE_LAMBDA { from[r] = of.a + of.a_rows[row + r]; });
    const float* const panel = of.b + column / panel_columns * of.b_panel;
    const std::int64_t a_step = of.a_step, b_step = of.b_step, count = of.count;
    for (std::int64_t segment = 0; segment < of.segments; ++segment) {
        std::int64_t at = of.a_at[segment];
        const float* b = panel + of.b_at[segment];
        for (std::int64_t k = 0; k < count; ++k, at += a_step, b += b_step) {
            Floats vectors[V];
            simd::unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA { vectors[v] = simd::load(b + v * simd::lanes); });
            simd::unrolled<R>([&](auto r) TESSERA_INLINE_LAMBDA {
                const float value = from[r][at];
                simd::unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA { sum[r][v] += value * vectors[v]; });
            });
        }
    }
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int r = index / V, x = index % V * simd::lanes;
        float* const c = of.c + of.c_rows[row + r] + column + x;
        if (columns - x >= simd::lanes)
            simd::store(c, sum[r][index % V]);
        else
            simd::store(c, sum[r][index % V], columns - x);
    });
}

template <int V> TESSERA_INLINE void multiply_panel(const Tiles& of, std::int64_t column) {
    float bias[panel_columns] = {};
    if (of.bias != nullptr)
        std::memcpy(bias, of.bias + column,
                    static_cast<std::size_t>(std::min<std::int64_t>(panel_columns, of.columns - column)) *
                        sizeof(float));
    for (std::int64_t row = 0; row < of.rows;) {
        const int size = next_tile_rows(of.rows - row);
        const auto tile = [&](auto rows)
                              TESSERA_INLINE_LAMBDA { multiply_tile<decltype(rows)::value, V>(of, row, column, bias); };
        switch (size) {
        case 12:
            tile(std::integral_constant<int, 12>{});
            break;
        case 10:
            tile(std::integral_constant<int, 10>{});
            break;
        case 9:
            tile(std::integral_constant<int, 9>{});
            break;
        case 8:
            tile(std::integral_constant<int, 8>{});
            break;
        case 6:
            tile(std::integral_constant<int, 6>{});
            break;
        case 4:
            tile(std::integral_constant<int, 4>{});
            break;
        case 2:
            tile(std::integral_constant<int, 2>{});
            break;
        default:
            tile(std::integral_constant<int, 1>{});
            break;
        }
        row += size;
    }
}

TESSERA_MULTIVERSION void multiply_tiles(const Tiles& given) {
    const Tiles of = given; // what is written to c cannot alias a copy
    for (std::int64_t column = 0; column < of.columns; column += panel_columns) {
        if (of.columns - column > simd::lanes)
            multiply_panel<2>(of, column);
        else
            multiply_panel<1>(of, column);
    }
}

// How many source places `targets` of a line reach over, from the first to the last.
std::int64_t reach(const Line& line, std::int64_t targets) {
    return (targets - 1) * line.step + (line.taps - 1) * line.tap_step + 1;
}

bool lies_inside(const Line& line) { return line.first >= 0 && line.first + reach(line, line.targets) <= line.sources; }

// A pass is made piece by piece: some whole images, or some lines of one.
struct Cut {
    bool copies;              // what a piece reads, with the zeros around it
    std::int64_t pixel;       // floats from a pixel to the next
    std::int64_t line_stride; // floats from a line to the next
    std::int64_t images, lines, pieces;

    std::int64_t rows(const Pass& pass) const { return images * lines * pass.width.targets; }
    std::int64_t copied_floats(const Pass& pass) const {
        return copies ? images * reach(pass.height, lines) * line_stride : 0;
    }
};

Cut cut_of(const Pass& pass, int threads) {
    const Line &height = pass.height, &width = pass.width;
    const std::int64_t channels = pass.source_channels / pass.groups;
    Cut cut{};
    cut.images = cut.lines = 1;
    if (pass.rows() == 0) return cut;
    cut.copies = pass.taps() > 0 && (pass.groups > 1 || !lies_inside(height) || !lies_inside(width));
    cut.pixel = cut.copies ? channels : pass.source_channels;
    cut.line_stride = cut.copies ? reach(width, width.targets) * cut.pixel : width.sources * cut.pixel;
    const std::int64_t target_bytes = width.targets * (pass.target_channels / pass.groups) * 4;
    const std::int64_t image_bytes =
        std::max<std::int64_t>(1, reach(height, height.targets) * cut.line_stride * 4 + height.targets * target_bytes);
    const std::int64_t image_rows = height.targets * width.targets;
    if (image_bytes <= piece_bytes && image_rows <= most_rows) {
        const std::int64_t most =
            std::max(std::min(piece_bytes / image_bytes, most_rows / image_rows), ceil_divide(least_rows, image_rows));
        const std::int64_t pieces =
            ceil_divide(ceil_divide(pass.batch, most), threads) * threads; // each thread as many
        cut.images = ceil_divide(pass.batch, pieces);
        cut.lines = height.targets;
        cut.pieces = ceil_divide(pass.batch, cut.images);
        return cut;
    }
    const std::int64_t line_bytes = height.step * cut.line_stride * 4 + target_bytes;
    const std::int64_t most =
        std::clamp<std::int64_t>(std::min(piece_bytes / line_bytes, most_rows / width.targets), 1, height.targets);
    cut.lines = ceil_divide(height.targets, ceil_divide(height.targets, most));
    cut.pieces = pass.batch * ceil_divide(height.targets, cut.lines);
    return cut;
}

struct Piece {
    std::int64_t image, images, line, lines;
    const float* source; // of the first tap of the first pixel
    std::int64_t image_stride;
};

void clear_floats(float* to, std::int64_t count) {
    std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(float));
}
void copy_floats(float* to, const float* from, std::int64_t count) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
}

// One line of the source, from first_x on, `length` pixels of which those outside are zero.
void copy_line(const float* line, const Line& width, const Channels& channels, std::int64_t length, float* to) {
    const std::int64_t low = std::clamp<std::int64_t>(-width.first, 0, length);
    const std::int64_t high = std::clamp<std::int64_t>(width.sources - width.first, low, length), run = channels.count;
    clear_floats(to, low * run);
    const float* const from = line + (width.first + low) * channels.all + channels.first;
    if (run == channels.all)
        copy_floats(to + low * run, from, (high - low) * run);
    else
        for (std::int64_t x = 0; x < high - low; ++x)
            copy_floats(to + (low + x) * run, from + x * channels.all, run);
    clear_floats(to + high * run, (length - high) * run);
}

// The index-th piece, copied to `memory` if need be.
Piece piece_of(const Pass& pass, const Cut& cut, const Channels& channels, const float* source, std::int64_t index,
               float* memory) {
    const Line &height = pass.height, &width = pass.width;
    const std::int64_t parts = ceil_divide(height.targets, cut.lines);
    Piece piece{};
    piece.image = index / parts * cut.images;
    piece.images = std::min(cut.images, pass.batch - piece.image);
    piece.line = index % parts * cut.lines;
    piece.lines = std::min(cut.lines, height.targets - piece.line);
    const std::int64_t first = piece.line * height.step + height.first, line_floats = width.sources * channels.all;
    if (!cut.copies) {
        piece.image_stride = height.sources * line_floats;
        piece.source = pass.taps() == 0 ? source
                                        : source + piece.image * piece.image_stride + first * line_floats +
                                              width.first * channels.all + channels.first;
        return piece;
    }
    const std::int64_t lines = reach(height, piece.lines);
    piece.source = memory;
    piece.image_stride = lines * cut.line_stride;
    for (std::int64_t image = 0; image < piece.images; ++image)
        for (std::int64_t y = 0; y < lines; ++y, memory += cut.line_stride) {
            if (first + y < 0 || first + y >= height.sources)
                clear_floats(memory, cut.line_stride);
            else
                copy_line(source + ((piece.image + image) * height.sources + first + y) * line_floats, width, channels,
                          cut.line_stride / cut.pixel, memory);
        }
    return piece;
}

// Calls visit(offset in the piece's source, image, line) for its lines.
template <class Visit> void for_lines(const Pass& pass, const Cut& cut, const Piece& piece, const Visit& visit) {
    for (std::int64_t image = 0; image < piece.images; ++image)
        for (std::int64_t line = 0; line < piece.lines; ++line)
            visit(image * piece.image_stride + line * pass.height.step * cut.line_stride, piece.image + image,
                  piece.line + line);
}

int tasks_of(const CpuStream& stream, const Pass& pass, std::int64_t most) {
    const double operations = 2.0 * static_cast<double>(pass.rows()) * static_cast<double>(pass.row_elements()) *
                              static_cast<double>(pass.target_channels / pass.groups);
    const auto worth = static_cast<std::int64_t>(std::min(operations / task_operations, 1e6));
    return static_cast<int>(std::clamp<std::int64_t>(std::min(worth, most), 1, stream.threads()));
}

// The numbers of a task: places of rows in a and c, of segments in a and b; and what is copied for it.
struct TaskMemory {
    std::int64_t rows, segments, floats;

    std::int64_t bytes() const { return align_up(16 * (rows + segments)) + align_up(4 * floats); }
    std::int64_t* a_rows(std::byte* memory) const { return reinterpret_cast<std::int64_t*>(memory); }
    std::int64_t* c_rows(std::byte* memory) const { return a_rows(memory) + rows; }
    std::int64_t* a_at(std::byte* memory) const { return c_rows(memory) + rows; }
    std::int64_t* b_at(std::byte* memory) const { return a_at(memory) + segments; }
    float* copy(std::byte* memory) const { return reinterpret_cast<float*>(memory + align_up(16 * (rows + segments))); }
};

TaskMemory pass_memory(const Pass& pass, const Cut& cut) {
    return {cut.rows(pass), pass.taps(), cut.copied_floats(pass)};
}
TaskMemory weight_memory(const Pass& pass, const Cut& cut) {
    return {pass.row_elements(), cut.images * cut.lines, cut.copied_floats(pass)};
}

std::int64_t packed_bytes(const Pass& pass) {
    return align_up(4 * ceil_divide(pass.target_channels / pass.groups, panel_columns) * panel_columns *
                    pass.row_elements());
}

} // namespace

bool is_direct(const Pass& pass) { return pass.dtype == DType::f32 && !pass.reads_in_place(); }

bool is_direct_weight_gradient(const Pass& forward) {
    return is_direct(forward) && forward.target_channels / forward.groups % simd::lanes == 0;
}

std::int64_t direct_pass_workspace_bytes(const CpuStream& stream, const Pass& pass) {
    const Cut cut = cut_of(pass, stream.threads());
    return packed_bytes(pass) + tasks_of(stream, pass, cut.pieces) * pass_memory(pass, cut).bytes();
}

void direct_pass(CpuStream& stream, const Pass& pass, std::int64_t group, const float* source, const PackWeights& pack,
                 const float* bias, float* target, std::byte* memory) {
    const Cut cut = cut_of(pass, stream.threads());
    const TaskMemory needs = pass_memory(pass, cut);
    const Channels from = pass.sources(group), to = pass.targets(group);
    const std::int64_t words = pass.row_elements(), panel_floats = panel_columns * words;
    auto* const packed = reinterpret_cast<float*>(memory);
    stream.parallel(ceil_divide(to.count, panel_columns),
                    std::max<std::int64_t>(1, 65536 / std::max<std::int64_t>(panel_floats, 1)),
                    [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t panel = begin; panel < end; ++panel) {
                            const std::int64_t first = panel * panel_columns;
                            pack(first, std::min<std::int64_t>(panel_columns, to.count - first),
                                 packed + panel * panel_floats);
                        }
                    });
    const bool whole_runs = pass.width.tap_step == 1 && cut.pixel == from.count;
    const auto work = [&](std::int64_t task, std::int64_t tasks) {
        std::byte* const mine = memory + packed_bytes(pass) + task * needs.bytes();
        std::int64_t *const a_rows = needs.a_rows(mine), *const c_rows = needs.c_rows(mine);
        std::int64_t *const a_at = needs.a_at(mine), *const b_at = needs.b_at(mine);
        Tiles tiles{};
        for (std::int64_t i = 0; i < pass.height.taps; ++i)
            for (std::int64_t j = 0; j < (whole_runs ? std::min<std::int64_t>(pass.width.taps, 1) : pass.width.taps);
                 ++j)
                a_at[tiles.segments++] =
                    i * pass.height.tap_step * cut.line_stride + j * pass.width.tap_step * cut.pixel;
        tiles.count = whole_runs ? pass.width.taps * from.count : from.count;
        for (std::int64_t segment = 0; segment < tiles.segments; ++segment)
            b_at[segment] = segment * tiles.count * panel_columns;
        for (std::int64_t index = cut.pieces * task / tasks; index < cut.pieces * (task + 1) / tasks; ++index) {
            const Piece piece = piece_of(pass, cut, from, source, index, needs.copy(mine));
            tiles.rows = 0;
            for_lines(pass, cut, piece, [&](std::int64_t place, std::int64_t image, std::int64_t line) {
                const Line &height = pass.height, &width = pass.width;
                std::int64_t pixel = (image * height.target_length + height.target_first + line * height.target_step) *
                                         width.target_length +
                                     width.target_first;
                for (std::int64_t column = 0; column < width.targets; ++column, pixel += width.target_step) {
                    a_rows[tiles.rows] = place + column * width.step * cut.pixel;
                    c_rows[tiles.rows++] = pixel * to.all + to.first;
                }
            });
            tiles.a = piece.source;
            tiles.a_rows = a_rows, tiles.c_rows = c_rows, tiles.a_at = a_at, tiles.b_at = b_at;
            tiles.a_step = 1;
            tiles.b = packed, tiles.b_step = panel_columns, tiles.b_panel = panel_floats;
            tiles.columns = to.count;
            tiles.bias = bias;
            tiles.c = target;
            multiply_tiles(tiles);
        }
    };
    const int tasks = tasks_of(stream, pass, cut.pieces);
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task)
            work(task, tasks);
    });
}

std::int64_t direct_weight_gradient_workspace_bytes(const CpuStream& stream, const Pass& forward) {
    const Cut cut = cut_of(forward, 1);
    return align_up(4 * forward.row_elements() * (forward.target_channels / forward.groups)) +
           stream.threads() * weight_memory(forward, cut).bytes();
}

// Sums lie as (tap, filter) until the end: rows of a tile are taps, its columns filters, and what it walks over are
// pixels.
void direct_weight_gradient(CpuStream& stream, const Pass& forward, std::int64_t group, const float* dy, const float* x,
                            float* dw, std::byte* memory) {
    const Line &height = forward.height, &width = forward.width;
    const Cut cut = cut_of(forward, 1);
    const TaskMemory needs = weight_memory(forward, cut);
    const Channels from = forward.sources(group), to = forward.targets(group);
    const std::int64_t taps = forward.row_elements();
    auto* const sums = reinterpret_cast<float*>(memory);
    if (forward.rows() == 0) return clear_floats(dw, taps * to.count);
    std::byte* const others = memory + align_up(4 * taps * to.count);
    const bool by_filters = to.count / panel_columns >= stream.threads();
    const std::int64_t units = by_filters ? ceil_divide(to.count, panel_columns) : taps;
    const auto work = [&](std::int64_t task, std::int64_t tasks) {
        std::byte* const mine = others + task * needs.bytes();
        std::int64_t *const a_rows = needs.a_rows(mine), *const c_rows = needs.c_rows(mine);
        std::int64_t *const a_at = needs.a_at(mine), *const b_at = needs.b_at(mine);
        std::int64_t tap = 0;
        for (std::int64_t i = 0; i < height.taps; ++i)
            for (std::int64_t j = 0; j < width.taps; ++j)
                for (std::int64_t channel = 0; channel < from.count; ++channel, ++tap) {
                    a_rows[tap] = i * height.tap_step * cut.line_stride + j * width.tap_step * cut.pixel + channel;
                    c_rows[tap] = tap * to.count;
                }
        const std::int64_t begin = units * task / tasks, end = units * (task + 1) / tasks;
        const std::int64_t tap_begin = by_filters ? 0 : begin, tap_end = by_filters ? taps : end;
        const std::int64_t filter = by_filters ? begin * panel_columns : 0;
        Tiles tiles{};
        tiles.a_rows = a_rows + tap_begin, tiles.c_rows = c_rows + tap_begin, tiles.rows = tap_end - tap_begin;
        tiles.a_at = a_at, tiles.b_at = b_at;
        tiles.count = width.targets;
        tiles.a_step = width.step * cut.pixel;
        tiles.b = dy + to.first + filter, tiles.b_step = to.all, tiles.b_panel = panel_columns;
        tiles.columns = by_filters ? std::min(to.count, end * panel_columns) - filter : to.count;
        tiles.c = sums + filter;
        for (std::int64_t index = 0; index < cut.pieces; ++index) {
            const Piece piece = piece_of(forward, cut, from, x, index, needs.copy(mine));
            tiles.segments = 0;
            for_lines(forward, cut, piece, [&](std::int64_t place, std::int64_t image, std::int64_t line) {
                a_at[tiles.segments] = place;
                b_at[tiles.segments++] = (image * height.targets + line) * width.targets * to.all;
            });
            tiles.a = piece.source;
            tiles.read_c = index > 0;
            multiply_tiles(tiles);
        }
    };
    const int tasks = tasks_of(stream, forward, units);
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task)
            work(task, tasks);
    });
    const MatmulOperand turned{sums, taps, to.count, false, DType::f32, false};
    stream.parallel(to.count / simd::lanes, std::max<std::int64_t>(1, 65536 / taps / simd::lanes),
                    [&](std::int64_t begin, std::int64_t end) {
                        const std::int64_t first = begin * simd::lanes, count = (end - begin) * simd::lanes;
                        if (taps % simd::lanes == 0) // or more would be written behind
                            return pack_panel(turned, 0, taps, taps, first, count, dw + first * taps);
                        for (std::int64_t filter = first; filter < first + count; ++filter)
                            for (std::int64_t tap = 0; tap < taps; ++tap)
                                dw[filter * taps + tap] = sums[tap * to.count + filter];
                    });
}

} // namespace tessera::kernels
