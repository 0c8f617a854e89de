// SPDX-License-Identifier: Apache-2.0
// average_pool and max_pool, and the windows of all that slides over an image.
#include "core/layers/windows.hpp"

#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

namespace tessera::layers {
namespace {

Window whole_image(const Shape& image) { return {{.size = image[1]}, {.size = image[2]}}; }

using Pool = std::function<ValueId(Graph&, std::string, ValueId, const Window&)>;

BuildLayer read_pool(const ConfigItem& item, const Pool& pool) {
    const bool global = item.get(layer_global);
    if (global)
        for (const auto* key : {&layer_kernel, &layer_stride, &layer_padding, &layer_dilation})
            if (item.is_set(key->name)) item.refuse(key->name, "the window is the whole image: global = true");
    const Window said = global ? Window() : window_of(item, 0);
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        const ValueId x = as_seen(builder, place.inputs[0]);
        const Shape& image = builder.graph().value(x).type.shape;
        expect_image_of(image);
        return {pool(builder.graph(), builder.path(""), x, global ? whole_image(image) : said)};
    };
}

} // namespace

std::pair<std::int64_t, std::int64_t> pair_in(const ConfigItem& item, const Key<std::vector<std::int64_t>>& key,
                                              std::int64_t least) {
    const std::vector<std::int64_t> values = item.get(key);
    if (values.empty() || values.size() > 2) item.refuse(key.name, "expected one number, or [height, width]");
    for (const std::int64_t value : values)
        if (value < least || value > 1 << 20)
            item.refuse(key.name, fmt::format("must be from {} to {}", least, 1 << 20));
    return {values.front(), values.back()};
}

Window window_of(const ConfigItem& item, std::int64_t stride) {
    if (!item.is_set(layer_kernel.name)) item.refuse("kernel is missing: the height and width of the window");
    const auto kernel = pair_in(item, layer_kernel, 1), padding = pair_in(item, layer_padding, 0),
               dilation = pair_in(item, layer_dilation, 1);
    auto step = stride == 0 ? kernel : std::pair(stride, stride);
    if (item.is_set(layer_stride.name)) step = pair_in(item, layer_stride, 1);
    return {{kernel.first, step.first, dilation.first, padding.first, padding.first},
            {kernel.second, step.second, dilation.second, padding.second, padding.second}};
}

void expect_image_of(const Shape& shape) {
    if (shape.rank() != 4) throw ConfigError("expected an image, (height, width, channels)");
}

BuildLayer read_average_pool(const ConfigItem& item) {
    const bool count_padding = item.get(layer_count_padding);
    return read_pool(item, [count_padding](Graph& graph, std::string name, ValueId x, const Window& window) {
        return ops::average_pool(graph, std::move(name), x, window, count_padding);
    });
}

BuildLayer read_max_pool(const ConfigItem& item) { return read_pool(item, ops::max_pool); }

} // namespace tessera::layers
