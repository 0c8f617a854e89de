// SPDX-License-Identifier: Apache-2.0
// attention, cross_attention and rotary: products, a softmax between them, and what hides a key from a query.
#include "core/formats/onnx/lowering.hpp"

#include "kernels/rotary.hpp"

#include <cmath>
#include <fmt/format.h>
#include <numbers>
#include <numeric>

namespace tessera {
namespace {

constexpr double hidden_score = -1e30; // whose share is 0 beside any other, and which is not an infinity

// 0 .. count - 1 as a column or a row
std::string places(OnnxLowering& to, std::int64_t count, bool column) {
    std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
    return to.graph().integers(column ? Shape{count, 1} : Shape{1, count}, std::move(numbers));
}

// (T, S): whether key s is no later than query t
std::string no_later(OnnxLowering& to, std::int64_t queries, std::int64_t keys) {
    return to.graph().once(fmt::format("no_later {} {}", queries, keys), [&] {
        return to.add("LessOrEqual", {places(to, keys, false), places(to, queries, true)});
    });
}

std::string picked(OnnxLowering& to, const std::string& x, std::int64_t index) { // of dim 0, which goes
    return to.add("Gather", {x, to.graph().integer(index)}, {{"axis", std::int64_t{0}}});
}

struct Scores {
    std::string q, k, v; // (…, T, D), (…, D, S), (…, S, D)
    double scale = 1;
    std::string bias{};    // added to the scores; "": none
    std::string visible{}; // true where a query sees a key; "": everywhere
    bool may_see_none = false;
};

// softmax(scale q k + bias) v
std::string attended(OnnxLowering& to, const Scores& in) {
    std::string scores = to.add("MatMul", {in.scale == 1 ? in.q : to.add("Mul", {in.q, to.scalar(in.scale)}), in.k});
    if (!in.bias.empty()) scores = to.add("Add", {scores, in.bias});
    if (!in.visible.empty()) scores = to.add("Where", {in.visible, scores, to.scalar(hidden_score)});
    std::string shares = to.add("Softmax", {scores}, {{"axis", std::int64_t{-1}}});
    if (in.may_see_none) shares = to.add("Where", {in.visible, shares, to.scalar(0)});
    return to.add("MatMul", {shares, in.v});
}

// (B, T, parts, H, D) -> (parts, B, H, T, D)
std::string heads_first(OnnxLowering& to, const std::string& x) { return to.transposed(x, {2, 0, 3, 1, 4}); }

std::string turned(OnnxLowering& to, const std::string& k) { return to.transposed(k, {0, 1, 3, 2}); }

// (B, T, G, R + 2, D): the R heads of a group beside its k and v. `visible`: as Scores has it, of (B, G, R, T, T).
void lower_by_group(OnnxLowering& to, double scale, const std::string& visible) {
    const Shape x = to.shape(0);
    const auto parts =
        to.add_several("Split", {to.in(0), to.graph().integers({x[3] - 2, 1, 1})}, {{"axis", std::int64_t{3}}}, 3);
    Scores in{.q = to.transposed(parts[0], {0, 2, 3, 1, 4}),
              .k = to.transposed(parts[1], {0, 2, 3, 4, 1}),
              .v = to.transposed(parts[2], {0, 2, 3, 1, 4}),
              .scale = scale,
              .visible = visible};
    to.out(0, to.transposed(attended(to, in), {0, 3, 1, 2, 4}));
}

// (T, S, H) of (T + S - 1, H), then heads first: the row of each distance
std::string bias_of(OnnxLowering& to, std::size_t input, std::int64_t queries, std::int64_t keys) {
    const std::string rows = to.graph().once(fmt::format("distances {} {}", queries, keys), [&] {
        const std::string distance = to.add("Sub", {places(to, keys, false), places(to, queries, true)});
        return to.add("Add", {distance, to.graph().integer(queries - 1)});
    });
    const std::string bias = to.in(input);
    return to.graph().once(fmt::format("bias {} {} {}", bias, queries, keys), [&] {
        return to.transposed(to.add("Gather", {bias, rows}), {2, 0, 1});
    });
}

// (B, 1, T, S): whether both are of one segment
std::string same_segment(OnnxLowering& to, std::size_t queries, std::size_t keys) {
    const std::string of_queries = to.in(queries), of_keys = to.in(keys);
    return to.graph().once(fmt::format("segments {} {}", of_queries, of_keys), [&] {
        return to.add("Equal", {to.add("Unsqueeze", {of_queries, to.graph().integers({1, 3})}),
                                to.add("Unsqueeze", {of_keys, to.graph().integers({1, 2})})});
    });
}

} // namespace

void lower_attention(OnnxLowering& to) {
    const Shape x = to.shape(0);
    const double scale = 1 / std::sqrt(static_cast<double>(x[4]));
    const std::string visible = to.attributes().flag("causal") ? no_later(to, x[1], x[1]) : "";
    if (to.attributes().flag("by_group")) return lower_by_group(to, scale, visible);
    const std::string parts = heads_first(to, to.in(0));
    Scores in{.q = picked(to, parts, 0),
              .k = turned(to, picked(to, parts, 1)),
              .v = picked(to, parts, 2),
              .scale = scale,
              .visible = visible};
    to.out(0, to.transposed(attended(to, in), {0, 2, 1, 3}));
}

void lower_cross_attention(OnnxLowering& to) { // q[, kv][, segments[, key_segments]][, bias]
    const bool cross = to.attributes().flag("cross"), segments = to.attributes().flag("segments");
    const std::int64_t queries = to.shape(0)[1], keys = to.shape(cross ? 1 : 0)[1];
    const double said = to.attributes().number("scale");
    const double scale = said > 0 ? said : 1 / std::sqrt(static_cast<double>(to.shape(0)[4]));
    const std::size_t first = cross ? 2 : 1; // of segments
    std::string visible = segments ? same_segment(to, first, cross ? first + 1 : first) : "";
    if (to.attributes().flag("causal")) {
        const std::string before = no_later(to, queries, keys);
        visible = visible.empty() ? before : to.add("And", {visible, before});
    }
    if (to.attributes().flag("by_group")) // (B, 1, 1, T, S), of groups and the heads in them
        return lower_by_group(to, scale, segments ? to.add("Unsqueeze", {visible, to.graph().integers({1})}) : visible);
    const std::string parts = heads_first(to, to.in(0)), memory = cross ? heads_first(to, to.in(1)) : parts;
    Scores in{.q = picked(to, parts, 0),
              .k = turned(to, picked(to, memory, cross ? 0 : 1)),
              .v = picked(to, memory, cross ? 1 : 2),
              .scale = scale,
              .visible = visible,
              .may_see_none = cross && segments};
    if (to.attributes().flag("bias")) in.bias = bias_of(to, first + (segments ? first : 0), queries, keys);
    to.out(0, to.transposed(attended(to, in), {0, 2, 1, 3}));
}

namespace {

// cos and sin of each position's angles: (1, T, 1, 1, D / 2)
struct Angles {
    std::string cos, sin;
};

Angles angles_of(OnnxLowering& to, std::int64_t times, std::int64_t pairs) {
    const Attributes& said = to.attributes();
    const kernels::RotaryScaling scaling{said.number("factor"), said.number("low_turns"), said.number("high_turns"),
                                         said.number("trained")};
    std::vector<float> cos, sin;
    for (std::int64_t t = 0; t < times; ++t)
        for (std::int64_t i = 0; i < pairs; ++i) {
            const double slow = std::pow(said.number("theta"), -static_cast<double>(i) / static_cast<double>(pairs));
            const double angle = static_cast<double>(t) * slow * scaling.of_angle(2 * std::numbers::pi / slow);
            cos.push_back(static_cast<float>(std::cos(angle)));
            sin.push_back(static_cast<float>(std::sin(angle)));
        }
    const Shape shape{1, times, 1, 1, pairs};
    const std::string options = fmt::format("rotary/{}_{}_{}_{}_{}_{}", times, pairs, said.number("theta"),
                                            scaling.factor, scaling.low_turns, scaling.trained);
    return {to.graph().floats(options + ".cos", shape, std::move(cos)),
            to.graph().floats(options + ".sin", shape, std::move(sin))};
}

} // namespace

// Queries and keys turn, values do not: the last of the three parts, or the last head of each group.
void lower_rotary(OnnxLowering& to) {
    if (to.attributes().flag("back")) to.refuse("is a gradient");
    const Shape x = to.shape(0);
    const std::int64_t axis = to.attributes().flag("by_group") ? 3 : 2, half = x[4] / 2;
    const auto parts = to.add_several("Split", {to.in(0), to.graph().integers({x[static_cast<int>(axis)] - 1, 1})},
                                      {{"axis", axis}}, 2);
    const auto halves =
        to.add_several("Split", {parts[0], to.graph().integers({half, half})}, {{"axis", std::int64_t{-1}}}, 2);
    const Angles angles = angles_of(to, x[1], half);
    const auto times = [&](const std::string& a, const std::string& b) { return to.add("Mul", {a, b}); };
    const std::string first = to.add("Sub", {times(halves[0], angles.cos), times(halves[1], angles.sin)});
    const std::string second = to.add("Add", {times(halves[0], angles.sin), times(halves[1], angles.cos)});
    const std::string both = to.add("Concat", {first, second}, {{"axis", std::int64_t{-1}}});
    to.out(0, to.add("Concat", {both, parts[1]}, {{"axis", axis}}));
}

} // namespace tessera
