// SPDX-License-Identifier: Apache-2.0
// Convolution without gathering: a tile's rows are places in the image, one register for each, and the words of a
// window are found at the same offsets from all of them. A sum is one chain, in the order of the gathered product's.
#include "kernels/cpu/convolution_direct.hpp"

#include "kernels/cpu/convolution_tiles.hpp"
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/memory.hpp"

#include <cstring>

namespace tessera::kernels {
namespace {

constexpr double task_operations = 4e5; // a thread is worth waking for about 2 us of work

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

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

// How much of source and target a piece has at most, and how many rows it is given where images let it have so many.
struct Sizes {
    std::int64_t bytes, least_rows, most_rows;
};
constexpr Sizes pass_sizes{256 << 10, 96, 2048}; // source and target stay in the second cache
constexpr Sizes weight_sizes{768 << 10, 192,
                             2048}; // each piece reads and writes all sums: fewer pieces, of more pixels

Cut cut_of(const Pass& pass, const Sizes& sizes, int threads) {
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
    if (image_bytes <= sizes.bytes && image_rows <= sizes.most_rows) {
        const std::int64_t most = std::max(std::min(sizes.bytes / image_bytes, sizes.most_rows / image_rows),
                                           ceil_divide(sizes.least_rows, image_rows));
        const std::int64_t pieces =
            ceil_divide(ceil_divide(pass.batch, most), threads) * threads; // each thread as many
        cut.images = ceil_divide(pass.batch, pieces);
        cut.lines = height.targets;
        cut.pieces = ceil_divide(pass.batch, cut.images);
        return cut;
    }
    const std::int64_t line_bytes = height.step * cut.line_stride * 4 + target_bytes;
    const std::int64_t most = std::clamp<std::int64_t>(
        std::min(sizes.bytes / line_bytes, sizes.most_rows / width.targets), 1, height.targets);
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
    return {pass.row_elements(), cut.images * cut.lines, cut.copied_floats(pass) + cut.rows(pass) * panel_columns};
}

std::int64_t packed_bytes(const Pass& pass) {
    return align_up(4 * ceil_divide(pass.target_channels / pass.groups, panel_columns) * panel_columns *
                    pass.row_elements());
}

struct Range {
    std::int64_t begin, end;
};

// The pixels of one group; `all` says where the packed weights, bias and target are.
struct PiecesOfPass {
    const Pass& pass;
    const Cut& cut;
    std::int64_t group;
    const float* source;
    const TaskMemory& needs;
    const Tiles& all;

    // A row of taps is one segment where its words are one run, and not too many.
    void place_taps(Tiles& tiles, std::int64_t* a_at, std::int64_t* b_at) const {
        const Line &height = pass.height, &width = pass.width;
        const std::int64_t channels = pass.sources(group).count;
        const bool whole = width.tap_step == 1 && cut.pixel == channels && width.taps * channels <= tile_words;
        const std::int64_t segments = whole ? std::min<std::int64_t>(width.taps, 1) : width.taps;
        tiles.count = whole ? width.taps * channels : channels;
        for (std::int64_t i = 0; i < height.taps; ++i)
            for (std::int64_t j = 0; j < segments; ++j, ++tiles.segments) {
                a_at[tiles.segments] = i * height.tap_step * cut.line_stride + j * width.tap_step * cut.pixel;
                b_at[tiles.segments] = tiles.segments * tiles.count * panel_columns;
            }
        tiles.a_at = a_at, tiles.b_at = b_at;
        tiles.a_step = 1, tiles.b_step = panel_columns;
    }

    void place_pixels(Tiles& tiles, const Piece& piece, std::int64_t* a_rows, std::int64_t* c_rows) const {
        const Channels to = pass.targets(group);
        tiles.rows = 0;
        for_lines(pass, cut, piece, [&](std::int64_t place, std::int64_t image, std::int64_t line) {
            const Line &height = pass.height, &width = pass.width;
            const std::int64_t y = image * height.target_length + height.target_first + line * height.target_step;
            std::int64_t pixel = y * width.target_length + width.target_first;
            for (std::int64_t column = 0; column < width.targets; ++column, pixel += width.target_step) {
                a_rows[tiles.rows] = place + column * width.step * cut.pixel;
                c_rows[tiles.rows++] = pixel * to.all + to.first;
            }
        });
        tiles.a_rows = a_rows, tiles.c_rows = c_rows;
    }

    void make(const Range& pieces, std::byte* memory) const {
        Tiles tiles = all;
        place_taps(tiles, needs.a_at(memory), needs.b_at(memory));
        for (std::int64_t index = pieces.begin; index < pieces.end; ++index) {
            const Piece piece = piece_of(pass, cut, pass.sources(group), source, index, needs.copy(memory));
            place_pixels(tiles, piece, needs.a_rows(memory), needs.c_rows(memory));
            tiles.a = piece.source;
            multiply_tiles(tiles);
        }
    }
};

// Sums over all pixels, in panels of filters.
struct WeightGradient {
    const Pass& pass;
    Cut cut;
    std::int64_t group;
    const float *dy, *x;
    float* sums;

    std::int64_t filters(std::int64_t panel) const {
        return std::min<std::int64_t>(panel_columns, pass.targets(group).count - panel * panel_columns);
    }

    void place_taps(std::int64_t* a_rows) const {
        const std::int64_t channels = pass.sources(group).count;
        for (std::int64_t i = 0; i < pass.height.taps; ++i)
            for (std::int64_t j = 0; j < pass.width.taps; ++j)
                for (std::int64_t channel = 0; channel < channels; ++channel)
                    *a_rows++ =
                        i * pass.height.tap_step * cut.line_stride + j * pass.width.tap_step * cut.pixel + channel;
    }

    // Floats from a pixel to the next in panel_of_dy: whole vectors.
    std::int64_t dy_step(std::int64_t panel) const {
        return (filters(panel) + simd::lanes - 1) / simd::lanes * simd::lanes;
    }

    // The panel's dy of a piece's pixels, side by side: in `memory` unless they lie so. Behind the filters may be
    // anything.
    const float* panel_of_dy(const Piece& piece, std::int64_t panel, std::int64_t pixels, float* memory) const {
        const Channels to = pass.targets(group);
        const std::int64_t first = (piece.image * pass.height.targets + piece.line) * pass.width.targets;
        const float* const from = dy + first * to.all + to.first + panel * panel_columns;
        const std::int64_t step = dy_step(panel);
        if (pass.groups == 1 && step == to.all) return from;
        for (std::int64_t i = 0; i < pixels; ++i)
            copy_floats(memory + i * step, from + i * to.all, filters(panel));
        return memory;
    }

    void add_up(const Range& taps, const Range& panels, const TaskMemory& needs, std::byte* memory) const {
        std::int64_t *const a_rows = needs.a_rows(memory), *const c_rows = needs.c_rows(memory);
        std::int64_t *const a_at = needs.a_at(memory), *const b_at = needs.b_at(memory);
        float* const dy_memory = needs.copy(memory) + cut.copied_floats(pass);
        place_taps(a_rows);
        Tiles tiles{};
        tiles.a_rows = a_rows + taps.begin, tiles.c_rows = c_rows, tiles.rows = taps.end - taps.begin;
        tiles.a_at = a_at, tiles.b_at = b_at;
        tiles.count = pass.width.targets;
        tiles.a_step = pass.width.step * cut.pixel;
        for (std::int64_t index = 0; index < cut.pieces; ++index) {
            const Piece piece = piece_of(pass, cut, pass.sources(group), x, index, needs.copy(memory));
            tiles.segments = 0;
            for_lines(pass, cut, piece,
                      [&](std::int64_t place, std::int64_t, std::int64_t) { a_at[tiles.segments++] = place; });
            tiles.a = piece.source;
            tiles.read_c = index > 0;
            for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
                tiles.b = panel_of_dy(piece, panel, tiles.segments * tiles.count, dy_memory);
                tiles.b_step = dy_step(panel);
                tiles.columns = filters(panel);
                for (std::int64_t segment = 0; segment < tiles.segments; ++segment)
                    b_at[segment] = segment * tiles.count * tiles.b_step;
                for (std::int64_t tap = 0; tap < tiles.rows; ++tap)
                    c_rows[tap] = tap * tiles.columns;
                tiles.c = sums + panel * panel_columns * pass.row_elements() + taps.begin * tiles.columns;
                multiply_tiles(tiles);
            }
        }
    }
};

// (tap, filter) to (filter, tap)
void turn_sums(const float* sums, std::int64_t taps, std::int64_t filters, float* to) {
    if (taps % simd::lanes == 0) // or more would be written behind
        return pack_panel({sums, taps, filters, false, DType::f32, false}, 0, taps, taps, 0, filters, to);
    for (std::int64_t filter = 0; filter < filters; ++filter)
        for (std::int64_t tap = 0; tap < taps; ++tap)
            to[filter * taps + tap] = sums[tap * filters + filter];
}

// What is copied for such a window is mostly what no tap reads.
bool has_gaps(const Line& line) { return line.taps > 1 && line.tap_step > 2; }

} // namespace

bool is_direct(const Pass& pass) {
    if (pass.groups == 1 && pass.taps() == 1) return false; // gathering so little is quicker than a tile's many places
    return pass.dtype == DType::f32 && !pass.reads_in_place() && !has_gaps(pass.height) && !has_gaps(pass.width);
}

std::int64_t direct_pass_workspace_bytes(const CpuStream& stream, const Pass& pass) {
    const Cut cut = cut_of(pass, pass_sizes, stream.threads());
    return packed_bytes(pass) + tasks_of(stream, pass, cut.pieces) * pass_memory(pass, cut).bytes();
}

void direct_pass(CpuStream& stream, const Pass& pass, std::int64_t group, const float* source, const PackWeights& pack,
                 const float* bias, float* target, std::byte* memory) {
    const Cut cut = cut_of(pass, pass_sizes, stream.threads());
    const TaskMemory needs = pass_memory(pass, cut);
    const Channels to = pass.targets(group);
    const std::int64_t panel_floats = panel_columns * pass.row_elements();
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
    Tiles tiles{};
    tiles.b = packed, tiles.b_panel = panel_floats;
    tiles.columns = to.count;
    tiles.bias = bias;
    tiles.c = target;
    const PiecesOfPass pieces{pass, cut, group, source, needs, tiles};
    const int tasks = tasks_of(stream, pass, cut.pieces);
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task)
            pieces.make({cut.pieces * task / tasks, cut.pieces * (task + 1) / tasks},
                        memory + packed_bytes(pass) + task * needs.bytes());
    });
}

std::int64_t direct_weight_gradient_workspace_bytes(const CpuStream& stream, const Pass& forward) {
    const Cut cut = cut_of(forward, weight_sizes, 1);
    return align_up(4 * forward.row_elements() * (forward.target_channels / forward.groups)) +
           stream.threads() * weight_memory(forward, cut).bytes();
}

// Panels of 32 filters, or fewer in the last one, each (tap, filter) until the end: rows of a tile are taps, its
// columns filters, and what it walks over are pixels.
void direct_weight_gradient(CpuStream& stream, const Pass& forward, std::int64_t group, const float* dy, const float* x,
                            float* dw, std::byte* memory) {
    const Channels to = forward.targets(group);
    const std::int64_t taps = forward.row_elements(), panels = ceil_divide(to.count, panel_columns);
    if (forward.rows() == 0) return clear_floats(dw, taps * to.count);
    auto* const sums = reinterpret_cast<float*>(memory);
    const WeightGradient gradient{forward, cut_of(forward, weight_sizes, 1), group, dy, x, sums};
    const TaskMemory needs = weight_memory(forward, gradient.cut);
    std::byte* const others = memory + align_up(4 * taps * to.count);
    const bool by_filters = panels >= stream.threads();
    const int tasks = tasks_of(stream, forward, by_filters ? panels : taps);
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            const auto share = [&](std::int64_t count) {
                return Range{count * task / tasks, count * (task + 1) / tasks};
            };
            gradient.add_up(by_filters ? Range{0, taps} : share(taps), by_filters ? share(panels) : Range{0, panels},
                            needs, others + task * needs.bytes());
        }
    });
    stream.parallel(panels, std::max<std::int64_t>(1, 65536 / taps / panel_columns),
                    [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t panel = begin; panel < end; ++panel)
                            turn_sums(sums + panel * panel_columns * taps, taps, gradient.filters(panel),
                                      dw + panel * panel_columns * taps);
                    });
}

} // namespace tessera::kernels
