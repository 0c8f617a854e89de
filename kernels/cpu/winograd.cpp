// SPDX-License-Identifier: Apache-2.0
// A convolution as 16 products: numbers of patches (quads, channels) times numbers of filters (channels, filters), and
// of its weights' gradient patches (channels, quads) times results (quads, filters). Each element is one chain along
// the product, whatever the cut: no piece and no thread changes a bit.
#include "kernels/cpu/winograd.hpp"

#include "kernels/cpu/convolution_tiles.hpp"
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/cpu/winograd_transforms.hpp"
#include "kernels/memory.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

constexpr int numbers = 16;              // of a patch, a filter, a quad
constexpr std::int64_t line_floats = 16; // between the 16, so that they do not meet in one set of the first cache
constexpr std::int64_t least_quads = 64; // or transforming the filters takes longer than it saves
constexpr std::int64_t least_channels = 32;
constexpr std::int64_t pass_bytes = 512 << 10, weight_bytes = 768 << 10; // of a piece's patches, in the second cache
constexpr std::int64_t sum_quads = 160;                                  // of one panel's results, in the first cache

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t bytes_of_floats(std::int64_t count) { return align_up(4 * count); }

// The pass as quads; panels are of target channels.
struct Quads {
    QuadImage source, result;
    std::int64_t count, panels;

    std::int64_t channels() const { return source.channels; }
    std::int64_t columns(std::int64_t panel) const {
        return std::min<std::int64_t>(panel_columns, result.channels - panel * panel_columns);
    }
    // Floats from one of the numbers to the next.
    std::int64_t patches_apart(std::int64_t quads) const { return quads * channels() + line_floats; }
    static std::int64_t products_apart(std::int64_t quads) { return quads * panel_columns + line_floats; }
    std::int64_t filter_floats() const { return numbers * channels() * panel_columns; } // of a panel
    std::int64_t patch_floats() const { return 16 * channels(); }
};

Quads quads_of(const Pass& pass) {
    const Line &height = pass.height, &width = pass.width;
    const std::int64_t down = ceil_divide(height.targets, 2), across = ceil_divide(width.targets, 2);
    return {{height.sources, width.sources, pass.source_channels, down, across, height.first, width.first},
            {height.targets, width.targets, pass.target_channels, down, across, 0, 0},
            pass.batch * down * across,
            ceil_divide(pass.target_channels, panel_columns)};
}

bool is_line(const Line& line) {
    return line.taps == 3 && line.step == 1 && line.tap_step == 1 && line.target_step == 1 && line.is_whole();
}

// The numbers at which a product's rows begin: i * step.
void place_rows(std::int64_t* rows, std::int64_t count, std::int64_t step) {
    for (std::int64_t i = 0; i < count; ++i)
        rows[i] = i * step;
}

struct Range {
    std::int64_t begin, end;
    Range part(std::int64_t task, std::int64_t tasks) const {
        const std::int64_t count = end - begin;
        return {begin + count * task / tasks, begin + count * (task + 1) / tasks};
    }
};

template <class Work> void for_tasks(const CpuStream& stream, std::int64_t tasks, const Work& work) {
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task)
            work(task);
    });
}

// How a pass is cut. Filters are transformed whole, and patches piece by piece; or the other way round where there are
// fewer patches.
struct PassCut {
    bool patches_whole;
    std::int64_t piece, pieces, tasks;

    std::int64_t patches(const Quads& quads) const {
        return numbers * quads.patches_apart(patches_whole ? quads.count : piece);
    }
    std::int64_t products() const { return numbers * Quads::products_apart(piece); }
    std::int64_t shared_bytes(const Quads& quads) const {
        return bytes_of_floats(patches_whole ? patches(quads) : quads.panels * quads.filter_floats());
    }
    std::int64_t task_bytes(const Quads& quads) const {
        return bytes_of_floats(patches_whole ? quads.filter_floats() : patches(quads)) + bytes_of_floats(products()) +
               bytes_of_floats(quads.patch_floats());
    }
};

PassCut cut_of(const Quads& quads, int threads) {
    PassCut cut{};
    cut.patches_whole = quads.count < quads.result.channels;
    const std::int64_t most = std::max<std::int64_t>(2 * tile_rows, pass_bytes / (4 * numbers * quads.channels()));
    cut.pieces = ceil_divide(ceil_divide(quads.count, most), threads) * threads; // each thread as many
    cut.piece = ceil_divide(ceil_divide(quads.count, cut.pieces), tile_rows) * tile_rows;
    cut.pieces = ceil_divide(quads.count, cut.piece);
    cut.tasks = std::min<std::int64_t>(threads, cut.patches_whole ? quads.panels : cut.pieces);
    return cut;
}

std::int64_t rows_bytes(std::int64_t rows) {
    return align_up(2 * rows * static_cast<std::int64_t>(sizeof(std::int64_t)));
}

struct WinogradPass {
    const Quads& quads;
    const PassCut& cut;
    const float *source, *bias;
    float* target;
    const std::int64_t *a_rows, *c_rows; // of a panel of 32

    float* products(std::byte* memory) const { return reinterpret_cast<float*>(memory); }
    float* patch(std::byte* memory) const { return products(memory) + bytes_of_floats(cut.products()) / 4; }
    float* rest(std::byte* memory) const { return patch(memory) + bytes_of_floats(quads.patch_floats()) / 4; }

    QuadRange piece(std::int64_t index) const {
        return {index * cut.piece, std::min(quads.count, (index + 1) * cut.piece)};
    }

    // One panel's results of a piece. patches: the piece's.
    void multiply(const QuadRange& of, const float* patches, std::int64_t apart, const float* filters,
                  std::int64_t panel, std::byte* memory) const {
        const std::int64_t nowhere = 0, products_apart = Quads::products_apart(cut.piece);
        Tiles tiles{};
        tiles.a_rows = a_rows, tiles.c_rows = c_rows, tiles.rows = of.end - of.begin;
        tiles.a_at = tiles.b_at = &nowhere;
        tiles.segments = 1, tiles.count = quads.channels(), tiles.a_step = 1;
        tiles.b_step = panel_columns, tiles.columns = quads.columns(panel);
        for (int number = 0; number < numbers; ++number) {
            tiles.a = patches + number * apart;
            tiles.b = filters + number * quads.channels() * panel_columns;
            tiles.c = products(memory) + number * products_apart;
            multiply_tiles(tiles);
        }
        const std::int64_t first = panel * panel_columns;
        results_of_quads(quads.result, products(memory), products_apart, of, first, panel_columns, tiles.columns,
                         bias == nullptr ? nullptr : bias + first, target);
    }

    void run_pieces(const Range& pieces, const float* filters, std::byte* memory) const {
        float* const patches = rest(memory);
        const std::int64_t apart = quads.patches_apart(cut.piece);
        for (std::int64_t index = pieces.begin; index < pieces.end; ++index) {
            const QuadRange of = piece(index);
            transform_patches(quads.source, source, of, patch(memory), apart, patches);
            for (std::int64_t panel = 0; panel < quads.panels; ++panel)
                multiply(of, patches, apart, filters + panel * quads.filter_floats(), panel, memory);
        }
    }

    void run_panel(std::int64_t panel, const float* patches, std::byte* memory) const {
        for (std::int64_t index = 0; index < cut.pieces; ++index) {
            const QuadRange of = piece(index);
            multiply(of, patches + of.begin * quads.channels(), quads.patches_apart(quads.count), rest(memory), panel,
                     memory);
        }
    }
};

// One panel's numbers of the filters.
void filters_of_panel(const Quads& quads, const PackWeights& pack, std::int64_t panel, float* to) {
    const std::int64_t count = quads.channels() * panel_columns;
    pack(panel * panel_columns, quads.columns(panel), to + 7 * count);
    transform_filters(to, count);
}

// The sums over quads that the weights' gradient is made of: of all filters, added up piece by piece; or of a panel at
// a time, where there are so few patches that all are kept.
struct SumCut {
    bool patches_whole;
    std::int64_t piece, row_tasks, panel_tasks;

    std::int64_t tasks() const { return row_tasks * panel_tasks; }
    std::int64_t patches(const Quads& quads) const {
        return numbers * quads.patches_apart(patches_whole ? quads.count : piece);
    }
    std::int64_t results() const { return numbers * Quads::products_apart(piece); }
    std::int64_t shared_bytes(const Quads& quads) const {
        return bytes_of_floats(patches_whole ? patches(quads) : quads.panels * quads.filter_floats());
    }
    std::int64_t task_bytes(const Quads& quads) const {
        return bytes_of_floats(patches_whole ? quads.filter_floats() : patches(quads)) + bytes_of_floats(results()) +
               bytes_of_floats(quads.patch_floats());
    }
};

SumCut sum_cut_of(const Quads& quads, int threads) {
    SumCut cut{};
    cut.patches_whole = quads.count <= 2 * quads.result.channels;
    if (cut.patches_whole) {
        cut.piece = std::min(quads.count, sum_quads);
        cut.row_tasks = 1, cut.panel_tasks = std::min<std::int64_t>(threads, quads.panels);
        return cut;
    }
    cut.piece = std::clamp<std::int64_t>(weight_bytes / (4 * numbers * quads.channels()), 64, sum_quads);
    cut.row_tasks = std::min(threads, 4);
    cut.panel_tasks = std::min<std::int64_t>(threads / cut.row_tasks, quads.panels);
    return cut;
}

struct WinogradSums {
    const Quads& quads;
    const SumCut& cut;
    const float *x, *dy;
    const std::int64_t *a_rows, *c_rows, *narrow_c_rows; // for panels of 32 and of 16

    float* results(std::byte* memory) const { return reinterpret_cast<float*>(memory); }
    float* patch(std::byte* memory) const { return results(memory) + bytes_of_floats(cut.results()) / 4; }
    float* rest(std::byte* memory) const { return patch(memory) + bytes_of_floats(quads.patch_floats()) / 4; }

    // What the quads of the range and its rows add to a panel's sums, (number, channel, filter).
    void add_up(const QuadRange& of, std::int64_t panel, const float* patches, std::int64_t apart, float* sums,
                std::byte* memory) const {
        const std::int64_t nowhere = 0, columns = quads.columns(panel);
        const std::int64_t results_apart = Quads::products_apart(cut.piece);
        transform_quads(quads.result, dy, of, panel * panel_columns, columns, results_apart, results(memory));
        Tiles tiles{};
        tiles.a_rows = a_rows, tiles.c_rows = columns == panel_columns ? c_rows : narrow_c_rows;
        tiles.rows = quads.channels();
        tiles.a_at = tiles.b_at = &nowhere;
        tiles.segments = 1, tiles.count = of.end - of.begin, tiles.a_step = quads.channels();
        tiles.b_step = tiles.columns = columns;
        tiles.read_c = of.begin > 0;
        for (int number = 0; number < 4 * (of.end_row - of.first_row); ++number) {
            tiles.a = patches + number * apart;
            tiles.b = results(memory) + number * results_apart;
            tiles.c = sums + (4 * of.first_row + number) * quads.channels() * columns;
            multiply_tiles(tiles);
        }
    }

    template <class Visit> void for_pieces(const Range& rows, const Visit& visit) const {
        for (std::int64_t begin = 0; begin < quads.count; begin += cut.piece)
            visit(QuadRange{begin, std::min(quads.count, begin + cut.piece), static_cast<int>(rows.begin),
                            static_cast<int>(rows.end)});
    }

    void run_pieces(const Range& rows, const Range& panels, float* sums, std::byte* memory) const {
        float* const patches = rest(memory);
        const std::int64_t apart = quads.patches_apart(cut.piece);
        for_pieces(rows, [&](const QuadRange& of) {
            transform_patches(quads.source, x, of, patch(memory), apart, patches);
            for (std::int64_t panel = panels.begin; panel < panels.end; ++panel)
                add_up(of, panel, patches, apart, sums + panel * quads.filter_floats(), memory);
        });
    }

    void run_panel(std::int64_t panel, const float* patches, std::byte* memory) const {
        const std::int64_t apart = quads.patches_apart(quads.count);
        for (std::int64_t row = 0; row < 4; ++row)
            for_pieces({row, row + 1}, [&](const QuadRange& of) {
                add_up(of, panel, patches + 4 * row * apart + of.begin * quads.channels(), apart, rest(memory), memory);
            });
    }

    // (number, channel, filter) to (filter, tap, channel)
    void write(float* sums, std::int64_t panel, float* dw) const {
        const std::int64_t columns = quads.columns(panel), taps = 9 * quads.channels();
        gradients_of_filters(sums, quads.channels() * columns);
        pack_panel({sums, taps, columns, false, DType::f32, false}, 0, taps, taps, 0, columns,
                   dw + panel * panel_columns * taps);
    }
};

// All patches, each task its own.
void transform_all(const CpuStream& stream, const Quads& quads, const float* source, std::int64_t tasks,
                   const std::function<float*(std::int64_t)>& patch, float* to) {
    for_tasks(stream, tasks, [&](std::int64_t task) {
        const Range part = Range{0, quads.count}.part(task, tasks);
        transform_patches(quads.source, source, {part.begin, part.end}, patch(task), quads.patches_apart(quads.count),
                          to + part.begin * quads.channels());
    });
}

} // namespace

bool is_winograd(const Pass& pass) {
    if (pass.dtype != DType::f32 || pass.groups != 1 || !is_line(pass.height) || !is_line(pass.width)) return false;
    const std::int64_t least = std::min(pass.source_channels, pass.target_channels);
    if (least < least_channels || pass.source_channels % simd::lanes != 0 || pass.target_channels % simd::lanes != 0)
        return false;
    const std::int64_t quads = quads_of(pass).count;
    return quads >= least_quads && 8 * quads <= 3 * pass.rows(); // few of their results are beyond the edge
}

std::int64_t winograd_pass_workspace_bytes(const CpuStream& stream, const Pass& pass) {
    const Quads quads = quads_of(pass);
    const PassCut cut = cut_of(quads, stream.threads());
    return rows_bytes(cut.piece) + cut.shared_bytes(quads) + cut.tasks * cut.task_bytes(quads);
}

void winograd_pass(CpuStream& stream, const Pass& pass, const float* source, const PackWeights& pack, const float* bias,
                   float* target, std::byte* memory) {
    const Quads quads = quads_of(pass);
    const PassCut cut = cut_of(quads, stream.threads());
    auto* const a_rows = reinterpret_cast<std::int64_t*>(memory);
    auto* const c_rows = a_rows + cut.piece;
    place_rows(a_rows, cut.piece, quads.channels());
    place_rows(c_rows, cut.piece, panel_columns);
    auto* const shared = reinterpret_cast<float*>(memory + rows_bytes(cut.piece));
    const auto of_task = [&](std::int64_t task) {
        return memory + rows_bytes(cut.piece) + cut.shared_bytes(quads) + task * cut.task_bytes(quads);
    };
    const WinogradPass work{quads, cut, source, bias, target, a_rows, c_rows};
    if (!cut.patches_whole) {
        stream.parallel(quads.panels, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t panel = begin; panel < end; ++panel)
                filters_of_panel(quads, pack, panel, shared + panel * quads.filter_floats());
        });
        return for_tasks(stream, cut.tasks, [&](std::int64_t task) {
            work.run_pieces(Range{0, cut.pieces}.part(task, cut.tasks), shared, of_task(task));
        });
    }
    transform_all(
        stream, quads, source, cut.tasks, [&](std::int64_t task) { return work.patch(of_task(task)); }, shared);
    for_tasks(stream, cut.tasks, [&](std::int64_t task) {
        const Range panels = Range{0, quads.panels}.part(task, cut.tasks);
        for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
            filters_of_panel(quads, pack, panel, work.rest(of_task(task)));
            work.run_panel(panel, shared, of_task(task));
        }
    });
}

std::int64_t winograd_weight_gradient_workspace_bytes(const CpuStream& stream, const Pass& forward) {
    const Quads quads = quads_of(forward);
    const SumCut cut = sum_cut_of(quads, stream.threads());
    return 2 * rows_bytes(quads.channels()) + cut.shared_bytes(quads) + cut.tasks() * cut.task_bytes(quads);
}

void winograd_weight_gradient(CpuStream& stream, const Pass& forward, const float* dy, const float* x, float* dw,
                              std::byte* memory) {
    const Quads quads = quads_of(forward);
    const SumCut cut = sum_cut_of(quads, stream.threads());
    const std::int64_t channels = quads.channels(), rows = 2 * rows_bytes(channels);
    auto* const a_rows = reinterpret_cast<std::int64_t*>(memory);
    place_rows(a_rows, channels, 1);
    place_rows(a_rows + channels, channels, panel_columns);
    place_rows(a_rows + 2 * channels, channels, panel_columns / 2);
    auto* const shared = reinterpret_cast<float*>(memory + rows);
    const auto of_task = [&](std::int64_t task) {
        return memory + rows + cut.shared_bytes(quads) + task * cut.task_bytes(quads);
    };
    const WinogradSums work{quads, cut, x, dy, a_rows, a_rows + channels, a_rows + 2 * channels};
    if (cut.patches_whole) {
        transform_all(
            stream, quads, x, cut.tasks(), [&](std::int64_t task) { return work.patch(of_task(task)); }, shared);
        return for_tasks(stream, cut.tasks(), [&](std::int64_t task) {
            const Range panels = Range{0, quads.panels}.part(task, cut.tasks());
            for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
                work.run_panel(panel, shared, of_task(task));
                work.write(work.rest(of_task(task)), panel, dw);
            }
        });
    }
    for_tasks(stream, cut.tasks(), [&](std::int64_t task) {
        work.run_pieces(Range{0, 4}.part(task % cut.row_tasks, cut.row_tasks),
                        Range{0, quads.panels}.part(task / cut.row_tasks, cut.panel_tasks), shared, of_task(task));
    });
    stream.parallel(quads.panels, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t panel = begin; panel < end; ++panel)
            work.write(shared + panel * quads.filter_floats(), panel, dw);
    });
}

} // namespace tessera::kernels
