// SPDX-License-Identifier: Apache-2.0
// Convolutions through oneDNN. Images are cut into slices by the shape alone, a slice is one call on one thread, and
// the slices of a weight's gradient are added in order: no number of threads changes a bit.
#include "kernels/cpu/convolution_onednn.hpp"

#include "kernels/cpu/depthwise.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <optional>

namespace tessera::kernels {
namespace {

using Direction = ConvolutionDirection;

// The orders of images that oneDNN is given.
enum class Order { pixels, blocked };

bool is_strided(const Convolution& shape) { return shape.window.height.stride > 1 || shape.window.width.stride > 1; }
bool is_dilated(const Convolution& shape) {
    return shape.window.height.dilation > 1 || shape.window.width.dilation > 1;
}

// Many pixels for each of the filters' or channels' weights, whose reordering takes time.
bool has_pixels(const Convolution& shape, std::int64_t times) {
    return shape.pixels() >= times * std::max(shape.channels, shape.filters);
}

// oneDNN is 1.4 to 12 times as fast as tiles or gathered windows, which have so few channels to work on.
std::optional<Order> order_in_groups(const Convolution& shape, DType dtype, Direction direction) {
    const std::int64_t channels = shape.group_channels(), most = std::max(channels, shape.group_filters());
    // In bf16 oneDNN 2.6 reads memory that nobody wrote, of few columns: tests/core/halo.cpp.
    const bool reads_beyond = direction == Direction::weight_gradient && shape.window.width.stride > 1;
    if (is_depthwise(shape)) return dtype == DType::bf16 && reads_beyond ? std::nullopt : std::optional(Order::pixels);
    if (most > 32) return {};
    if (dtype == DType::bf16)
        return most <= 16 || direction != Direction::weight_gradient ? std::optional(Order::pixels) : std::nullopt;
    if (most > 16) return direction == Direction::forward ? std::optional(Order::pixels) : std::nullopt;
    if (direction == Direction::weight_gradient) return channels == 8 ? Order::blocked : Order::pixels;
    return most == 16 && is_strided(shape) ? Order::blocked : Order::pixels;
}

bool is_faster_f32(const Convolution& shape, Direction direction) {
    const bool strided = is_strided(shape);
    if (shape.window.taps() == 1) {
        if (strided && direction == Direction::forward) return shape.channels <= 64;
        if (strided && direction == Direction::weight_gradient) return shape.channels <= 32;
        if (strided) return shape.filters <= 512;
        if (direction == Direction::weight_gradient) return shape.channels >= shape.filters && has_pixels(shape, 16);
        return shape.channels <= 64 && shape.filters <= 64;
    }
    if (is_dilated(shape)) return direction == Direction::forward && has_pixels(shape, 8);
    if (shape.channels > 16) return false;
    if (direction == Direction::input_gradient) return true;
    return shape.window.taps() > 9 && !strided && (direction != Direction::forward || shape.channels > 4);
}

bool is_faster_bf16(const Convolution& shape, Direction direction) {
    const bool strided = is_strided(shape);
    if (shape.window.taps() == 1) {
        if (!strided) return has_pixels(shape, 8);
        return direction == Direction::input_gradient || shape.channels <= 64;
    }
    if (shape.channels <= 16) return true;
    if (direction == Direction::forward) return has_pixels(shape, 4);
    if (direction == Direction::input_gradient) return has_pixels(shape, 8);
    return !strided && has_pixels(shape, 32);
}

// Measured by bench_convolution_peers (tests/benchmarks/RESULTS.md has the tables): what was more than 5 % faster there
// goes through oneDNN. A rule and no clock, since bits depend on it.
std::optional<Order> order_of(const Convolution& shape, DType dtype, Direction direction) {
    if (dtype != DType::f32 && dtype != DType::bf16) return {};
    if (shape.batch < 1 || shape.out_height() < 1 || shape.out_width() < 1) return {};
    if (shape.groups > 1) return order_in_groups(shape, dtype, direction);
    if (shape.batch < 4) return {}; // too few slices to share out
    const bool faster = dtype == DType::f32 ? is_faster_f32(shape, direction) : is_faster_bf16(shape, direction);
    return faster ? std::optional(Order::pixels) : std::nullopt;
}

// The images of a batch in slices of equal size, the last one what is left.
struct Slices {
    const OnednnCall *each = nullptr, *last = nullptr;
    std::int64_t images = 0, count = 0;

    const OnednnCall& call(std::int64_t slice) const { return slice + 1 == count ? *last : *each; }
    std::int64_t scratch_bytes() const { return std::max(each->scratch_bytes(), last->scratch_bytes()); }
    std::int64_t weights_bytes() const { return align_up(each->weights_bytes()); }
    explicit operator bool() const { return each != nullptr && last != nullptr && each->has_weights_of(*last); }
};

// A call costs some microseconds: beyond a few slices, for threads to share, each has this many operations.
std::int64_t slices_wanted(const Convolution& shape, Direction direction) {
    const double operations =
        2.0 * static_cast<double>(shape.pixels() * shape.filters) * static_cast<double>(shape.taps());
    const auto of = [&](double each) { return static_cast<std::int64_t>(std::min(operations / each, 16.0)); };
    if (direction == Direction::weight_gradient) // each slice has sums of its own
        return std::clamp<std::int64_t>(of(2.5e7), std::clamp<std::int64_t>(of(2.5e6), 1, 2), 4);
    return std::max(of(2.5e7), std::clamp<std::int64_t>(of(2.5e6), 1, 4));
}

Slices slices_of(const Convolution& shape, DType dtype, Direction direction) {
    const std::optional<Order> order = order_of(shape, dtype, direction);
    if (!order) return {};
    const std::int64_t wanted = std::min(shape.batch, slices_wanted(shape, direction));
    Slices slices;
    slices.images = (shape.batch + wanted - 1) / wanted;
    slices.count = (shape.batch + slices.images - 1) / slices.images;
    const auto call = [&](std::int64_t images) {
        Convolution part = shape;
        part.batch = images;
        return OnednnCall::find({part, dtype, direction, *order == Order::blocked});
    };
    slices.each = call(slices.images);
    const std::int64_t left = shape.batch - (slices.count - 1) * slices.images;
    slices.last = left == slices.images ? slices.each : call(left);
    return slices;
}

std::int64_t tasks_of(const CpuStream& stream, const Slices& slices) {
    return std::min<std::int64_t>(stream.threads(), slices.count);
}

// In a workspace: packed weights, or the sums of all slices; a bias of zeros; scratch memory of each thread's.
struct Places {
    std::int64_t weights, bias, scratch;

    std::byte* bias_in(std::byte* memory) const { return memory + weights; }
    std::byte* scratch_in(std::byte* memory, std::int64_t task) const {
        return memory + weights + bias + task * scratch;
    }
    std::int64_t bytes(std::int64_t tasks) const { return weights + bias + tasks * scratch; }
};

Places places_of(const Slices& slices, const Convolution& shape, Direction direction) {
    const bool sums = direction == Direction::weight_gradient;
    return {(sums ? slices.count : 1) * slices.weights_bytes(),
            direction == Direction::forward ? align_up(4 * shape.filters) : 0, align_up(slices.scratch_bytes())};
}

// Calls run(call, first image, thread's scratch memory, number of the slice) for all slices.
template <class Run> void for_slices(const CpuStream& stream, const Slices& slices, const Places& places,
                                     std::byte* memory, const Run& run) {
    slices.each->compile();
    slices.last->compile();
    const std::int64_t tasks = tasks_of(stream, slices);
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task)
            for (std::int64_t i = slices.count * task / tasks; i < slices.count * (task + 1) / tasks; ++i)
                run(slices.call(i), i * slices.images, places.scratch_in(memory, task), i);
    });
}

// The image `first` of x or y.
std::byte* image_of(const ConstView& images, std::int64_t first, std::int64_t elements) {
    return static_cast<std::byte*>(const_cast<void*>(images.data)) + first * elements * bytes_of(images.dtype);
}

std::int64_t x_elements(const Convolution& shape) { return shape.height * shape.width * shape.channels; }
std::int64_t y_elements(const Convolution& shape) { return shape.out_height() * shape.out_width() * shape.filters; }

} // namespace

bool is_onednn(const Convolution& shape, DType dtype, Direction direction) {
    return static_cast<bool>(slices_of(shape, dtype, direction));
}

std::string onednn_name(const Convolution& shape, DType dtype, Direction direction) {
    const Slices slices = slices_of(shape, dtype, direction);
    return slices ? slices.each->name() : "";
}

std::int64_t onednn_workspace_bytes(const CpuStream& stream, const Convolution& shape, DType dtype,
                                    Direction direction) {
    const Slices slices = slices_of(shape, dtype, direction);
    return places_of(slices, shape, direction).bytes(tasks_of(stream, slices));
}

void onednn_convolution(CpuStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
                        View workspace) {
    const Slices slices = slices_of(shape, x.dtype, Direction::forward);
    const Places places = places_of(slices, shape, Direction::forward);
    auto* const memory = static_cast<std::byte*>(workspace.memory());
    auto* const zeros = reinterpret_cast<float*>(places.bias_in(memory));
    std::fill_n(zeros, shape.filters, 0.0f);
    slices.each->compile();
    slices.each->pack_weights(w.data, memory);
    for_slices(stream, slices, places, memory,
               [&](const OnednnCall& call, std::int64_t first, std::byte* scratch, std::int64_t) {
                   call.run(image_of(x, first, x_elements(shape)), memory, bias ? bias.as<float>() : zeros,
                            image_of(y, first, y_elements(shape)), scratch);
               });
}

void onednn_input_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                           View workspace) {
    const Slices slices = slices_of(shape, dy.dtype, Direction::input_gradient);
    const Places places = places_of(slices, shape, Direction::input_gradient);
    auto* const memory = static_cast<std::byte*>(workspace.memory());
    slices.each->compile();
    slices.each->pack_weights(w.data, memory);
    for_slices(stream, slices, places, memory,
               [&](const OnednnCall& call, std::int64_t first, std::byte* scratch, std::int64_t) {
                   call.run(image_of(dx, first, x_elements(shape)), memory, nullptr,
                            image_of(dy, first, y_elements(shape)), scratch);
               });
}

void onednn_weight_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                            View workspace) {
    const Slices slices = slices_of(shape, x.dtype, Direction::weight_gradient);
    const Places places = places_of(slices, shape, Direction::weight_gradient);
    auto* const memory = static_cast<std::byte*>(workspace.memory());
    for_slices(stream, slices, places, memory,
               [&](const OnednnCall& call, std::int64_t first, std::byte* scratch, std::int64_t slice) {
                   call.run(image_of(x, first, x_elements(shape)), memory + slice * slices.weights_bytes(), nullptr,
                            image_of(dy, first, y_elements(shape)), scratch);
               });
    auto* const sums = reinterpret_cast<float*>(memory);
    const std::int64_t floats = slices.weights_bytes() / 4;
    stream.parallel(floats, 32768, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t slice = 1; slice < slices.count; ++slice)
            for (std::int64_t i = begin; i < end; ++i)
                sums[i] += sums[slice * floats + i];
    });
    slices.each->unpack_weights(sums, dw.as<float>());
}

} // namespace tessera::kernels
