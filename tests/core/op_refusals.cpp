// SPDX-License-Identifier: Apache-2.0
// What every op of the catalog refuses, and in which words.
#include "core/ops/encoder_ops.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

using namespace tessera;
using testing::ThrowsMessage;

namespace {

struct Refusal {
    std::string_view op;
    OpPointer made;
    std::vector<TensorType> inputs;
    std::string sentence; // what is said after "OP 'NODE': "
};

std::vector<Refusal> refusals() {
    const auto f32 = [](const Shape& shape) { return TensorType{shape, DType::f32}; };
    const auto i32 = [](const Shape& shape) { return TensorType{shape, DType::i32}; };
    const TensorType bf16{{4, 8}, DType::bf16};
    const Window three{{.size = 3, .before = 1, .after = 1}, {.size = 3}};
    return {
        {"accuracy", make_accuracy(), {f32({4, 6}), i32({6})}, "targets is (6), expected (4)"},
        {"activation", make_activation(Activation::gelu), {i32({4})}, "x is i32, expected f32, bf16 or f16"},
        {"add", make_add(), {f32({4, 5}), f32({4, 6})}, "b is (4, 6), expected (4, 5)"},
        {"add", make_add(), {f32({4, 8}), bf16}, "b is bf16, expected f32"},
        {"add_rows", make_add_rows(), {f32({4, 6, 18}), f32({6, 17})}, "row is (6, 17), expected (6, 18)"},
        {"add_rows", make_add_rows(), {f32({18}), f32({6, 18})}, "x is (18), expected at least 2 dims"},
        {"attention",
         make_attention(true),
         {f32({2, 9, 4, 4, 8})},
         "qkv is (2, 9, 4, 4, 8), expected (batch, time, 3, heads, head dim)"},
        {"attention",
         make_attention(true),
         {f32({2, 9, 96})},
         "qkv is (2, 9, 96), expected (batch, time, 3, heads, head dim)"},
        {"average_pool",
         make_average_pool({{.size = 2, .before = 2}, {}}, true),
         {f32({2, 4, 4, 3})},
         "a window of 2 x 1 covers padding alone beside x, which is (2, 4, 4, 3); expected less padding"},
        {"batch_norm", make_batch_norm(1e-5), {f32({4, 6}), f32({5}), f32({6})}, "scale is (5), expected (6)"},
        {"batch_norm", make_batch_norm(1e-5), {f32({6}), f32({6}), f32({6})}, "x is (6), expected at least 2 dims"},
        {"batch_norm_inference",
         make_batch_norm_inference(1e-5),
         {f32({4, 6}), f32({6}), f32({4}), f32({6}), f32({6})},
         "variance is (4), expected (6)"},
        {"cast", make_cast(DType::f32), {i32({4})}, "x is i32, expected f32, bf16 or f16"},
        {"combine",
         make_combine(),
         {f32({3, 4, 18}), f32({3, 4, 2}), i32({3, 4, 2})},
         "y is (3, 4, 18), expected (experts, batch, capacity, width)"},
        {"combine",
         make_combine(),
         {f32({3, 3, 2, 18}), f32({3, 4, 2}), i32({2, 4, 2})},
         "slots is (2, 4, 2), expected (3, time, choices)"},
        {"combine",
         make_combine(),
         {f32({3, 3, 2, 18}), f32({3, 4, 1}), i32({3, 4, 2})},
         "gates is (3, 4, 1), expected (3, 4, 2)"},
        {"convolution_input_gradient",
         make_transposed_convolution(three, {4, 5, 6}),
         {f32({2, 3, 3, 8}), f32({8, 3, 3, 6})},
         "x is (2, 3, 3, 8), expected (batch, 4, 3, channels)"},
        {"convolution_input_gradient",
         make_transposed_convolution(three, {4, 5, 6}),
         {f32({2, 4, 3, 8}), f32({8, 3, 3, 4})},
         "weight is (8, 3, 3, 4), expected (8, 3, 3, channels of a group of 6)"},
        {"convolution",
         make_convolution(three, 1),
         {f32({2, 16, 3}), f32({4, 3, 3, 3})},
         "x is (2, 16, 3), expected (batch, height, width, channels)"},
        {"convolution",
         make_convolution(three, 1),
         {f32({2, 1, 2, 3}), f32({4, 3, 3, 3})},
         "x is (2, 1, 2, 3) and padded by 2 and 0, expected at least the window's 3 x 3"},
        {"convolution",
         make_convolution(three, 1),
         {f32({2, 8, 8, 3}), f32({4, 5, 3, 3})},
         "weight is (4, 5, 3, 3), expected (filters, 3, 3, channels of a group)"},
        {"convolution",
         make_convolution(three, 2),
         {f32({2, 8, 8, 6}), f32({4, 3, 3, 6})},
         "x has 6 channels, weight expects 12 in 2 groups"},
        {"convolution",
         make_convolution(three, 2),
         {f32({2, 8, 8, 6}), f32({5, 3, 3, 3})},
         "weight has 5 filters, expected a multiple of 2 groups"},
        {"convolution",
         make_convolution({{.stride = 0}, {}}, 1),
         {f32({2, 8, 8, 6}), f32({5, 1, 1, 6})},
         "the window's size, stride or dilation is below 1 or its padding negative, expected neither"},
        {"convolution",
         make_convolution(three, 1),
         {f32({2, 8, 8, 6}), f32({5, 3, 3, 6}), f32({6})},
         "bias is (6), expected (5)"},
        {"counted_targets", make_counted_targets(false), {f32({4, 6})}, "targets is f32, expected i32"},
        {"cross_attention",
         make_cross_attention({.segments = true}),
         {f32({2, 9, 2, 4, 8}), i32({2, 9})},
         "q is (2, 9, 2, 4, 8), expected (batch, time, 3, heads, head dim)"},
        {"cross_attention",
         make_cross_attention({.cross = true}),
         {f32({2, 9, 1, 4, 8}), f32({2, 7, 2, 4, 6})},
         "kv is (2, 7, 2, 4, 6), expected (2, 7, 2, 4, 8)"},
        {"cross_entropy",
         make_cross_entropy(19),
         {f32({4, 6, 19}), i32({4, 7}), f32({})},
         "targets is (4, 7), expected (4, 6)"},
        {"cross_entropy",
         make_cross_entropy(19),
         {f32({4, 6, 19}), i32({4, 6}), f32({1})},
         "scale is (1), expected ()"},
        {"cross_entropy",
         make_cross_entropy(20),
         {f32({4, 6, 19}), i32({4, 6}), f32({})},
         "logits is (4, 6, 19), expected at least 20 columns"},
        {"cross_entropy_loss",
         make_cross_entropy_loss(19),
         {f32({4, 6, 19}), i32({6})},
         "targets is (6), expected (4, 6)"},
        {"cross_entropy_loss",
         make_cross_entropy_loss(19),
         {f32({}), i32({})},
         "logits is (), expected at least 1 dims"},
        {"dispatch", make_dispatch(3, 2), {f32({4, 18}), i32({4, 2})}, "x is (4, 18), expected (batch, time, width)"},
        {"dispatch",
         make_dispatch(3, 2),
         {f32({3, 4, 18}), i32({3, 5, 2})},
         "slots is (3, 5, 2), expected (3, 4, choices)"},
        {"dropout", make_dropout(0.5, ""), {f32({}), i32({})}, "x is (), expected at least 1 dims"},
        {"dropout", make_dropout(0.5, ""), {f32({4, 8}), i32({3, 6})}, "places is (3, 6), expected (4, 6)"},
        {"embedding",
         make_embedding(3),
         {i32({4}), f32({3, 4, 5})},
         "table is (3, 4, 5), expected (vocabulary, width)"},
        {"embedding", make_embedding(4), {i32({4}), f32({3, 5})}, "table is (3, 5), expected at least 4 rows"},
        {"expert_linear",
         make_expert_linear(),
         {f32({3, 4, 20}), f32({2, 12, 20})},
         "weight is (2, 12, 20), expected (3, out, 20)"},
        {"expert_linear",
         make_expert_linear(),
         {f32({3, 4, 20}), f32({3, 12, 20}), f32({12})},
         "bias is (12), expected (3, 12)"},
        {"flatten", make_flatten(), {f32({4})}, "x is (4), expected at least 2 dims"},
        {"gate", make_gate(Activation::silu), {f32({4, 24}), f32({4, 23})}, "x is (4, 23), expected (4, 24)"},
        {"gru",
         make_gru(true, false),
         {f32({4, 2, 1, 4, 8}), f32({1, 3, 8, 8}), f32({1, 3, 8})},
         "x is (4, 2, 1, 4, 8), expected (rows, steps, directions, 3, units)"},
        {"gru",
         make_gru(true, false),
         {f32({4, 2, 1, 3, 8}), f32({1, 3, 8, 7}), f32({1, 3, 8})},
         "weight is (1, 3, 8, 7), expected (1, 3, 8, 8)"},
        {"layer_norm", make_layer_norm(1e-5), {f32({4, 24}), f32({23})}, "scale is (23), expected (24)"},
        {"layer_norm",
         make_layer_norm(1e-5),
         {f32({4, 24}), f32({24}), f32({4, 24})},
         "bias is (4, 24), expected (24)"},
        {"leave_out", make_leave_out(1), {f32({4, 6})}, "targets is f32, expected i32"},
        {"linear", make_linear(1), {f32({4, 768}), f32({8, 1024})}, "input has (768) columns, weight expects (1024)"},
        {"linear", make_linear(1), {f32({4, 8}), bf16}, "weight is bf16, expected f32"},
        {"linear", make_linear(1), {f32({4, 8}), f32({5, 8}), f32({4})}, "bias is (4), expected (5)"},
        {"linear", make_linear(2), {f32({4, 8}), f32({5, 8})}, "input is (4, 8), expected at least 3 dims"},
        {"lstm",
         make_lstm(true, false),
         {f32({4, 2, 1, 4, 8}), f32({1, 4, 8, 8}), f32({1, 4, 7})},
         "bias is (1, 4, 7), expected (1, 4, 8)"},
        {"mask_tokens",
         make_mask_tokens({.chosen = 7, .mask = 9, .below = 9}, "example"),
         {i32({4, 6}), i32({4, 6})},
         "7 of 6 tokens"},
        {"max_pool",
         make_max_pool(three),
         {f32({2, 4, 2, 3})},
         "x is (2, 4, 2, 3) and padded by 2 and 0, expected at least the window's 3 x 3"},
        {"mean_squared_error",
         make_mean_squared_error(),
         {f32({4, 3}), f32({4, 2}), f32({})},
         "targets is (4, 2), expected (4, 3)"},
        {"mean_squared_error",
         make_mean_squared_error(),
         {f32({4, 3}), f32({4, 3}), f32({1})},
         "scale is (1), expected ()"},
        {"mean_squared_error_loss",
         make_mean_squared_error_loss(),
         {f32({4}), f32({4})},
         "y is (4), expected at least 2 dims"},
        {"place_rows", make_place_rows(5), {f32({4, 6}), i32({4, 2})}, "x is (4, 6), expected at least 3 dims"},
        {"residual_norm",
         make_residual_norm(Norm::layer_norm, 1e-5),
         {f32({4, 24}), f32({3, 24}), f32({24})},
         "b is (3, 24), expected (4, 24)"},
        {"residual_norm",
         make_residual_norm(Norm::rms_norm, 1e-5),
         {f32({4, 24}), f32({4, 24}), f32({23})},
         "scale is (23), expected (24)"},
        {"rms_norm", make_rms_norm(1e-5), {f32({4, 24}), f32({4})}, "scale is (4), expected (24)"},
        {"rotary",
         make_rotary({}, false),
         {f32({2, 9, 3, 4, 7})},
         "qkv is (2, 9, 3, 4, 7), expected heads of an even size: pairs of elements turn"},
        {"route", make_route({}), {f32({4, 6})}, "logits is (4, 6), expected (batch, time, experts)"},
        {"route",
         make_route({.choices = 2, .capacity = 3}),
         {f32({4, 6, 1})},
         "logits is (4, 6, 1), expected 2 to 1024 experts"},
        {"scale", make_scale(0.5), {i32({4, 24})}, "x is i32, expected f32, bf16 or f16"},
        {"shift_tokens", make_shift_tokens(1), {i32({4})}, "tokens is (4), expected (batch, time)"},
        {"sum_rows", make_sum_rows(3), {f32({4, 24})}, "x is (4, 24), expected at least 3 dims"},
        {"token_segments", make_token_segments(0), {f32({4, 6})}, "tokens is f32, expected i32"},
        {"token_types", make_token_types(1, 2), {i32({4})}, "tokens is (4), expected (batch, time)"},
    };
}

} // namespace

TEST(OpCatalog, RefusesWhatDoesNotFitWithASentence) {
    std::set<std::string_view> covered;
    for (const Refusal& refusal : refusals()) {
        Graph graph;
        std::vector<ValueId> inputs;
        for (const TensorType& type : refusal.inputs)
            inputs.push_back(graph.input("", type));
        EXPECT_THAT([&] { graph.apply(refusal.made, "layers.3.wrong", inputs); },
                    ThrowsMessage<ConfigError>(fmt::format("{} 'layers.3.wrong': {}", refusal.op, refusal.sentence)));
        covered.insert(refusal.op);
    }
    for (const OpPointer& op : op_catalog())
        EXPECT_TRUE(covered.contains(op->name())) << op->name() << ": no refusal is tested";
}
