// SPDX-License-Identifier: Apache-2.0
// Convolution on the CPU, as passes: in f32 by tiles that read the image itself; else, and where a pass is a plain
// product, pieces of windows are gathered into rows and multiplied. A gathered row is read soon after it was written,
// from the second cache; a sum is the product's chain over k, so that neither the length of a piece nor the number of
// threads changes a bit.
#include "kernels/convolution.hpp"

#include "kernels/check.hpp"
#include "kernels/convolution_check.hpp"
#include "kernels/cpu/convolution_direct.hpp"
#include "kernels/cpu/convolution_onednn.hpp"
#include "kernels/cpu/depthwise.hpp"
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/winograd.hpp"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <cstring>

namespace tessera::kernels {
namespace {

constexpr std::int64_t gathered_bytes = 1 << 20; // of a piece: about a second cache; half of it is no faster
constexpr std::int64_t least_rows = 384;         // of a piece: packing the weights costs as much as a tile of 12
constexpr std::int64_t copied_bytes = 65536;     // a thread is worth waking for so many

std::int64_t piece_rows(const Pass& pass) { // a multiple of the product's tiles, and of the pairs of a bf16 word
    const std::int64_t row_bytes = std::max<std::int64_t>(1, pass.row_elements() * bytes_of(pass.dtype));
    const std::int64_t wanted = pass.reads_in_place() && pass.writes_in_place()
                                    ? pass.rows()
                                    : std::max(least_rows, gathered_bytes / row_bytes / 24 * 24);
    return std::max<std::int64_t>(1, std::min(pass.rows(), wanted));
}

std::byte* bytes_at(const ConstView& view) { return static_cast<std::byte*>(const_cast<void*>(view.data)); }

void clear_bytes(std::byte* to, std::int64_t bytes) { std::memset(to, 0, static_cast<std::size_t>(bytes)); }
void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// One row of taps: those of the sources first, first + tap_step, ...; a pixel's run has `run` bytes, `pixel` all.
std::byte* gather_taps(const Line& line, std::int64_t first, const std::byte* source_row, std::int64_t pixel,
                       std::int64_t run, std::byte* to) {
    if (line.tap_step == 1 && run == pixel) { // one run
        const std::int64_t low = std::clamp<std::int64_t>(-first, 0, line.taps);
        const std::int64_t high = std::clamp<std::int64_t>(line.sources - first, low, line.taps);
        clear_bytes(to, low * run);
        if (high > low) copy_bytes(to + low * run, source_row + (first + low) * pixel, (high - low) * run);
        clear_bytes(to + high * run, (line.taps - high) * run);
        return to + line.taps * run;
    }
    for (std::int64_t tap = 0; tap < line.taps; ++tap, to += run) {
        const std::int64_t source = first + tap * line.tap_step;
        if (source >= 0 && source < line.sources)
            copy_bytes(to, source_row + source * pixel, run);
        else
            clear_bytes(to, run);
    }
    return to;
}

// Rows [begin, end) of the pass, each the taps of one target pixel, to `to`.
void gather(const Pass& pass, const Channels& channels, const std::byte* source, std::int64_t begin, std::int64_t end,
            std::byte* to) {
    const std::int64_t element = bytes_of(pass.dtype);
    const std::int64_t pixel = channels.all * element, run = channels.count * element;
    const Line &height = pass.height, &width = pass.width;
    for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t column = row % width.targets, line = row / width.targets % height.targets;
        const std::int64_t image = row / width.targets / height.targets;
        for (std::int64_t tap = 0; tap < height.taps; ++tap) {
            const std::int64_t from = line * height.step + height.first + tap * height.tap_step;
            if (from < 0 || from >= height.sources) {
                clear_bytes(to, width.taps * run);
                to += width.taps * run;
                continue;
            }
            const std::byte* const source_row =
                source + (image * height.sources + from) * width.sources * pixel + channels.first * element;
            to = gather_taps(width, column * width.step + width.first, source_row, pixel, run, to);
        }
    }
}

// Rows [begin, end) of products to the pixels that they are of.
void scatter(const Pass& pass, const Channels& channels, const std::byte* from, std::int64_t begin, std::int64_t end,
             std::byte* target) {
    const std::int64_t element = bytes_of(pass.dtype), run = channels.count * element;
    const Line &height = pass.height, &width = pass.width;
    for (std::int64_t row = begin; row < end; ++row, from += run) {
        const std::int64_t column = row % width.targets, line = row / width.targets % height.targets;
        const std::int64_t image = row / width.targets / height.targets;
        const std::int64_t y = height.target_first + line * height.target_step;
        const std::int64_t x = width.target_first + column * width.target_step;
        const std::int64_t place = (image * height.target_length + y) * width.target_length + x;
        copy_bytes(target + (place * channels.all + channels.first) * element, from, run);
    }
}

std::int64_t rows_a_thread(std::int64_t row_bytes) {
    return std::max<std::int64_t>(1, copied_bytes / std::max<std::int64_t>(row_bytes, 1));
}

// Rows [begin, begin + count) of the pass where a product can read them: in `memory`, or where they lie.
ConstView gathered(const CpuStream& stream, const Pass& pass, const Channels& channels, const ConstView& source,
                   std::int64_t begin, std::int64_t count, std::byte* memory) {
    const std::int64_t elements = pass.row_elements(), row_bytes = elements * bytes_of(pass.dtype);
    const Shape shape{count, elements};
    if (pass.reads_in_place()) return View(bytes_at(source) + begin * row_bytes, shape, pass.dtype);
    stream.parallel(count, rows_a_thread(row_bytes), [&](std::int64_t first, std::int64_t end) {
        gather(pass, channels, bytes_at(source), begin + first, begin + end, memory + first * row_bytes);
    });
    return View(memory, shape, pass.dtype);
}

// Memory of a pass or a weight's gradient: gathered rows, rows of products or of dy beside them, the product's own.
struct Workspace {
    std::int64_t gathered = 0, rows = 0, product = 0;

    std::int64_t bytes() const { return gathered + rows + product; }
};

// A product for pieces of `piece` rows and a last one of what is left.
template <class Product>
std::int64_t product_bytes(const CpuStream& stream, std::int64_t rows, std::int64_t piece, const Product& product) {
    return align_up(std::max(matmul_workspace_bytes(stream, product(piece)),
                             matmul_workspace_bytes(stream, product(rows % piece))));
}

Matmul product_of(const Pass& pass, std::int64_t rows, bool transpose_b, bool bias) {
    return {.m = rows,
            .n = pass.target_channels / pass.groups,
            .k = pass.row_elements(),
            .transpose_b = transpose_b,
            .input = pass.dtype,
            .output = pass.dtype,
            .bias = bias};
}

Workspace workspace_of(const CpuStream& stream, const Pass& pass, bool transpose_b) {
    const std::int64_t element = bytes_of(pass.dtype), piece = piece_rows(pass);
    return {.gathered = pass.reads_in_place() ? 0 : align_up(piece * pass.row_elements() * element),
            .rows = pass.writes_in_place() ? 0 : align_up(piece * (pass.target_channels / pass.groups) * element),
            .product = product_bytes(stream, pass.rows(), piece,
                                     [&](std::int64_t rows) { return product_of(pass, rows, transpose_b, false); })};
}

// The pixels of one group: source windows times w, which is (target channels, row elements) where transposed.
void run_pass(CpuStream& stream, const Pass& pass, std::int64_t group, const ConstView& source, const ConstView& w,
              bool transpose_b, const ConstView& bias, const View& target, std::byte* memory) {
    const Workspace space = workspace_of(stream, pass, transpose_b);
    const Channels to = pass.targets(group);
    const std::int64_t run = to.count * bytes_of(pass.dtype), piece = piece_rows(pass);
    const View products_memory(memory + space.gathered + space.rows, {space.product / 4}, DType::f32);
    for (std::int64_t begin = 0; begin < pass.rows(); begin += piece) {
        const std::int64_t count = std::min(piece, pass.rows() - begin);
        const ConstView rows = gathered(stream, pass, pass.sources(group), source, begin, count, memory);
        std::byte* const products = pass.writes_in_place() ? bytes_at(target) + begin * run : memory + space.gathered;
        matmul(stream, product_of(pass, count, transpose_b, static_cast<bool>(bias)), rows, w, bias,
               View(products, {count, to.count}, pass.dtype), products_memory);
        if (pass.writes_in_place()) continue;
        stream.parallel(count, rows_a_thread(run), [&](std::int64_t first, std::int64_t end) {
            scatter(pass, to, products + first * run, begin + first, begin + end, bytes_at(target));
        });
    }
}

// The part of w that a pass of the input's gradient multiplies by, as (tap, filter, channel): calls visit(number of the
// run, its channels).
template <class Visit> void for_turned(const Convolution& shape, const Pass& pass, std::int64_t group,
                                       const ConstView& w, const Visit& visit) {
    const std::int64_t filters = shape.group_filters(), run = shape.group_channels() * bytes_of(pass.dtype);
    const auto weight = [](const Line& line, std::int64_t tap) { return line.weight_first + tap * line.weight_step; };
    std::int64_t number = 0;
    for (std::int64_t i = 0; i < pass.height.taps; ++i)
        for (std::int64_t j = 0; j < pass.width.taps; ++j) {
            const std::int64_t tap = weight(pass.height, i) * shape.window.width.size + weight(pass.width, j);
            for (std::int64_t k = group * filters; k < (group + 1) * filters; ++k)
                visit(number++, bytes_at(w) + (k * shape.window.taps() + tap) * run);
        }
}

void turn_weights(const Convolution& shape, const Pass& pass, std::int64_t group, const ConstView& w, std::byte* to) {
    const std::int64_t run = shape.group_channels() * bytes_of(pass.dtype);
    for_turned(shape, pass, group, w,
               [&](std::int64_t number, const std::byte* from) { copy_bytes(to + number * run, from, run); });
}

// Straight into a panel, of the channels [first, first + count).
void pack_turned(const Convolution& shape, const Pass& pass, std::int64_t group, const ConstView& w, std::int64_t first,
                 std::int64_t count, float* to) {
    for_turned(shape, pass, group, w, [&](std::int64_t number, const std::byte* run) {
        float* const words = to + number * panel_columns;
        if (count == panel_columns)
            std::memcpy(words, run + first * 4, panel_columns * sizeof(float));
        else
            copy_bytes(reinterpret_cast<std::byte*>(words), run + first * 4, count * 4);
    });
}

std::int64_t turned_bytes(const Convolution& shape, DType dtype) {
    return align_up(shape.group_filters() * shape.taps() * bytes_of(dtype));
}

template <class Visit> void for_phases(const Convolution& shape, DType dtype, const Visit& visit) {
    for (std::int64_t i = 0; i < std::min(shape.window.height.stride, shape.height); ++i)
        for (std::int64_t j = 0; j < std::min(shape.window.width.stride, shape.width); ++j)
            visit(gradient_pass(shape, i, j, dtype));
}

Matmul weight_product(const Convolution& shape, DType dtype, std::int64_t rows, bool accumulate) {
    return {.m = shape.group_filters(),
            .n = shape.taps(),
            .k = rows,
            .transpose_a = true,
            .input = dtype,
            .output = DType::f32,
            .accumulate = accumulate};
}

// Each pixel of y is its own window: for the part of dy that belongs to a group.
Pass identity_pass(const Convolution& shape, DType dtype) {
    return {shape.batch,
            forward_line({}, shape.out_height()),
            forward_line({}, shape.out_width()),
            shape.filters,
            shape.filters,
            shape.groups,
            dtype};
}

Workspace weight_workspace(const CpuStream& stream, const Convolution& shape, DType dtype) {
    const Pass pass = forward_pass(shape, dtype);
    const std::int64_t element = bytes_of(dtype), piece = piece_rows(pass);
    return {.gathered = pass.reads_in_place() ? 0 : align_up(piece * shape.taps() * element),
            .rows = shape.groups == 1 ? 0 : align_up(piece * shape.group_filters() * element),
            .product = product_bytes(stream, pass.rows(), piece,
                                     [&](std::int64_t rows) { return weight_product(shape, dtype, rows, false); })};
}

} // namespace

std::int64_t convolution_workspace_bytes(const CpuStream& stream, const Convolution& shape, DType dtype, bool) {
    check_convolution("convolution", shape);
    if (is_onednn(shape, dtype, ConvolutionDirection::forward))
        return onednn_workspace_bytes(stream, shape, dtype, ConvolutionDirection::forward);
    if (is_depthwise(shape)) return depthwise_workspace_bytes(shape);
    const Pass pass = forward_pass(shape, dtype);
    if (is_winograd(pass)) return winograd_pass_workspace_bytes(stream, pass);
    return is_direct(pass) ? direct_pass_workspace_bytes(stream, pass) : workspace_of(stream, pass, true).bytes();
}

void convolution(CpuStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
                 View workspace) {
    check_convolution("convolution", shape, x, w, y);
    if (bias) check_count("convolution", "the bias", bias, shape.filters);
    check_workspace("convolution", workspace, convolution_workspace_bytes(stream, shape, x.dtype));
    if (is_onednn(shape, x.dtype, ConvolutionDirection::forward))
        return onednn_convolution(stream, shape, x, w, bias, y, workspace);
    if (is_depthwise(shape)) return depthwise(stream, shape, x, w, bias, y, workspace);
    const Pass pass = forward_pass(shape, x.dtype);
    const std::int64_t filters = shape.group_filters(), weights = filters * shape.taps() * bytes_of(w.dtype);
    for (std::int64_t group = 0; group < shape.groups; ++group) {
        const View group_weights(bytes_at(w) + group * weights, {filters, shape.taps()}, w.dtype);
        const ConstView group_bias =
            bias ? View(bytes_at(bias) + group * filters * 4, {filters}, bias.dtype) : ConstView();
        if (is_direct(pass)) {
            const MatmulOperand by_filters{group_weights.data, filters, shape.taps(), false, DType::f32, false};
            const auto pack = [&](std::int64_t first, std::int64_t count, float* to) {
                pack_panel(by_filters, first, count, panel_columns, 0, shape.taps(), to);
            };
            if (is_winograd(pass))
                return winograd_pass(stream, pass, x.as<float>(), std::ref(pack), bias ? bias.as<float>() : nullptr,
                                     y.as<float>(), bytes_at(workspace));
            direct_pass(stream, pass, group, x.as<float>(), std::ref(pack), bias ? group_bias.as<float>() : nullptr,
                        y.as<float>(), bytes_at(workspace));
            continue;
        }
        run_pass(stream, pass, group, x, group_weights, true, group_bias, y, bytes_at(workspace));
    }
}

std::int64_t convolution_input_gradient_workspace_bytes(const CpuStream& stream, const Convolution& shape,
                                                        DType dtype) {
    check_convolution("convolution_input_gradient", shape);
    if (is_onednn(shape, dtype, ConvolutionDirection::input_gradient))
        return onednn_workspace_bytes(stream, shape, dtype, ConvolutionDirection::input_gradient);
    if (is_depthwise(shape)) return depthwise_workspace_bytes(shape);
    std::int64_t most = 0;
    for_phases(shape, dtype, [&](const Pass& pass) {
        most =
            std::max(most, is_winograd(pass) ? winograd_pass_workspace_bytes(stream, pass)
                           : is_direct(pass) ? direct_pass_workspace_bytes(stream, pass)
                                             : turned_bytes(shape, dtype) + workspace_of(stream, pass, false).bytes());
    });
    return most;
}

void convolution_input_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                                View workspace) {
    check_convolution("convolution_input_gradient", shape, dx, w, dy);
    check_workspace("convolution_input_gradient", workspace,
                    convolution_input_gradient_workspace_bytes(stream, shape, dy.dtype));
    if (is_onednn(shape, dy.dtype, ConvolutionDirection::input_gradient))
        return onednn_input_gradient(stream, shape, dy, w, dx, workspace);
    if (is_depthwise(shape)) return depthwise_input_gradient(stream, shape, dy, w, dx, workspace);
    std::byte* const memory = bytes_at(workspace);
    for_phases(shape, dy.dtype, [&](const Pass& pass) {
        for (std::int64_t group = 0; group < shape.groups; ++group) {
            if (is_direct(pass)) {
                const auto pack = [&](std::int64_t first, std::int64_t count, float* to) {
                    pack_turned(shape, pass, group, w, first, count, to);
                };
                if (is_winograd(pass))
                    return winograd_pass(stream, pass, dy.as<float>(), std::ref(pack), nullptr, dx.as<float>(), memory);
                direct_pass(stream, pass, group, dy.as<float>(), std::ref(pack), nullptr, dx.as<float>(), memory);
                continue;
            }
            turn_weights(shape, pass, group, w, memory);
            const View turned(memory, {pass.row_elements(), shape.group_channels()}, w.dtype);
            run_pass(stream, pass, group, dy, turned, false, {}, dx, memory + turned_bytes(shape, dy.dtype));
        }
    });
}

std::int64_t convolution_weight_gradient_workspace_bytes(const CpuStream& stream, const Convolution& shape,
                                                         DType dtype) {
    check_convolution("convolution_weight_gradient", shape);
    if (is_onednn(shape, dtype, ConvolutionDirection::weight_gradient))
        return onednn_workspace_bytes(stream, shape, dtype, ConvolutionDirection::weight_gradient);
    if (is_depthwise(shape)) return depthwise_weight_gradient_workspace_bytes(shape);
    const Pass pass = forward_pass(shape, dtype);
    if (is_winograd(pass)) return winograd_weight_gradient_workspace_bytes(stream, pass);
    if (is_direct(pass)) return direct_weight_gradient_workspace_bytes(stream, pass);
    return weight_workspace(stream, shape, dtype).bytes();
}

void convolution_weight_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                                 View workspace) {
    check_convolution("convolution_weight_gradient", shape, x, dw, dy);
    check_workspace("convolution_weight_gradient", workspace,
                    convolution_weight_gradient_workspace_bytes(stream, shape, x.dtype));
    if (is_onednn(shape, x.dtype, ConvolutionDirection::weight_gradient))
        return onednn_weight_gradient(stream, shape, dy, x, dw, workspace);
    if (is_depthwise(shape)) return depthwise_weight_gradient(stream, shape, dy, x, dw, workspace);
    const Pass pass = forward_pass(shape, x.dtype), filters = identity_pass(shape, x.dtype);
    if (is_winograd(pass))
        return winograd_weight_gradient(stream, pass, dy.as<float>(), x.as<float>(), dw.as<float>(),
                                        bytes_at(workspace));
    const Workspace space = weight_workspace(stream, shape, x.dtype);
    const std::int64_t piece = piece_rows(pass), weights = shape.group_filters() * shape.taps() * bytes_of(dw.dtype);
    std::byte* const memory = bytes_at(workspace);
    const View products_memory(memory + space.gathered + space.rows, {space.product / 4}, DType::f32);
    for (std::int64_t group = 0; group < shape.groups; ++group) {
        if (is_direct(pass)) {
            direct_weight_gradient(stream, pass, group, dy.as<float>(), x.as<float>(),
                                   dw.as<float>() + group * weights / 4, memory);
            continue;
        }
        const View target(bytes_at(dw) + group * weights, {shape.group_filters(), shape.taps()}, dw.dtype);
        std::int64_t begin = 0;
        do { // once at least: without pixels the gradient is zero
            const std::int64_t count = std::min(piece, pass.rows() - begin);
            const ConstView rows = gathered(stream, pass, pass.sources(group), x, begin, count, memory);
            const ConstView dy_rows =
                gathered(stream, filters, filters.sources(group), dy, begin, count, memory + space.gathered);
            matmul(stream, weight_product(shape, x.dtype, count, begin > 0), dy_rows, rows, {}, target,
                   products_memory);
            begin += piece;
        } while (begin < pass.rows());
    }
}

} // namespace tessera::kernels
