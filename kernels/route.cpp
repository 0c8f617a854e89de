// SPDX-License-Identifier: Apache-2.0
// The memory and the checks that routing has in common on every kind of device.
#include "kernels/route.hpp"

#include "kernels/check.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <fmt/format.h>
#include <utility>

namespace tessera::kernels {
namespace {

struct Sizes {
    std::int64_t mass, logs, parts, chosen; // bytes
    explicit Sizes(const Routing& r)
        : mass(align_up(4 * r.samples * r.experts)), logs(align_up(4 * r.rows())), parts(align_up(4 * 3 * r.samples)),
          chosen(align_up(4 * r.rows() * r.choices)) {}
    std::int64_t total() const { return mass + logs + parts + chosen; }
};

} // namespace

std::int64_t route_workspace_bytes(const Routing& routing) { return Sizes(routing).total(); }

RouteMemory route_memory(const Routing& routing, const View& workspace) {
    const Sizes sizes(routing);
    check_workspace("route", workspace, sizes.total());
    auto* at = static_cast<std::byte*>(workspace.memory());
    const auto next = [&](std::int64_t bytes) { return std::exchange(at, at + bytes); };
    RouteMemory memory{};
    memory.mass = reinterpret_cast<float*>(next(sizes.mass));
    memory.logs = reinterpret_cast<float*>(next(sizes.logs));
    memory.parts = reinterpret_cast<float*>(next(sizes.parts));
    memory.chosen = reinterpret_cast<std::int32_t*>(next(sizes.chosen));
    return memory;
}

void check_route(std::string_view kernel, const Routing& r, const RouteViews& views) {
    if (r.experts < 1 || r.experts > most_experts || r.choices < 1 || r.choices > r.experts || r.capacity < 1)
        throw InternalError(fmt::format("{}: {} of {} experts (at most {}) with room for {} tokens", kernel, r.choices,
                                        r.experts, most_experts, r.capacity));
    const auto check = [&](std::string_view name, const ConstView& view, std::int64_t count) {
        if (view) check_count(kernel, name, view, count);
    };
    check("logits", views.logits, r.rows() * r.experts);
    check("gates", views.gates, r.rows() * r.choices);
    check("slots", views.slots, r.rows() * r.choices);
    check("load", views.load, r.samples * r.experts);
    const std::int64_t width = views.x.shape.rank() == 0 ? 0 : views.x.shape[-1];
    check("x", views.x, r.rows() * width);
    check("y", views.y, r.experts * r.samples * r.capacity * width);
    if (views.x && views.y && views.x.dtype != views.y.dtype)
        throw InternalError(
            fmt::format("{}: x is {} and y is {}", kernel, name_of(views.x.dtype), name_of(views.y.dtype)));
}

} // namespace tessera::kernels
