// SPDX-License-Identifier: Apache-2.0
// The one list of ops.
#include "core/ops/encoder_ops.hpp"

namespace tessera {

std::vector<OpPointer> op_catalog() {
    using LossKind = kernels::PointwiseLoss::Kind;
    const Window window{{.size = 3, .stride = 2, .before = 1}, {.size = 2, .dilation = 2, .before = 1, .after = 2}};
    return {
        make_accuracy(),
        make_activation(Activation::gelu),
        make_activation(Activation::gelu_tanh),
        make_activation(Activation::relu),
        make_activation(Activation::silu),
        make_activation(Activation::tanh),
        make_add(),
        make_add_rows(),
        make_attention(true),
        make_attention(false),
        make_attention(true, true),
        make_average_pool(window, true),
        make_average_pool(window, false),
        make_average_pool({{.size = 5}, {.size = 4}}, false), // of the whole image
        make_batch_norm(1e-5),
        make_batch_norm_inference(1e-5),
        make_binary_counts(),
        make_cast(DType::f32),
        make_combine(),
        make_concatenate(),
        make_confusion(5),
        make_convolution(window, 1),
        make_convolution(window, 3),
        make_convolution(window, 6), // depthwise
        make_counted_targets(false),
        make_cross_attention({.segments = true}),
        make_cross_attention({.segments = true, .bias = true, .causal = true, .scale = 1}),
        make_cross_attention({.segments = true, .causal = true, .by_group = true}),
        make_cross_attention({.cross = true}),
        make_cross_attention({.cross = true, .segments = true}),
        make_cross_attention({.cross = true, .bias = true, .causal = true}),
        make_cross_entropy(19),
        make_cross_entropy(17), // and padding
        make_cross_entropy_loss(17),
        make_dispatch(3, 2),
        make_dropout(0.25, "example"),
        make_embedding(11),
        make_embedding(9), // and padding
        make_expert_linear(),
        make_flatten(),
        make_gate(Activation::silu),
        make_gate(Activation::gelu_tanh),
        make_gru(true, true),
        make_gru(false, false), // both directions
        make_layer_norm(1e-5),
        make_leave_out(1),
        make_linear(1),
        make_linear(2),
        make_lstm(true, true),
        make_lstm(false, false), // both directions
        make_mask_tokens({.chosen = 2, .mask = 9, .below = 9, .kept = {0, -1, -1, -1}}, "example"),
        make_max_pool(window),
        make_place_rows(5),
        make_place_scores(9, 5),
        make_pointwise_loss({LossKind::squared}, true),
        make_pointwise_loss({LossKind::squared}, false),
        make_pointwise_loss({LossKind::absolute}, true),
        make_pointwise_loss({LossKind::huber, 2}, true),
        make_pointwise_loss({LossKind::huber, 100}, true),
        make_pointwise_loss({LossKind::binary, 1, 3}, true),
        make_pointwise_loss({LossKind::binary, 1, 3}, false),
        make_regression_sums(),
        make_residual_norm(Norm::layer_norm, 1e-5),
        make_residual_norm(Norm::rms_norm, 1e-5),
        make_rms_norm(1e-5),
        make_rotary({}, false),
        make_rotary({.theta = 500000, .scaling = {.factor = 8, .trained = 12}}, true),
        make_route({.choices = 1, .capacity = 1}),
        make_route({.choices = 2, .capacity = 1}),
        make_scale(0.75),
        make_shift_tokens(1),
        make_smoothed_cross_entropy(17, 0.1, true, true),
        make_smoothed_cross_entropy(19, 0.1, false, true),
        make_smoothed_cross_entropy(17, 0, true, false),
        make_soft_cross_entropy(17, 0.1),
        make_soft_cross_entropy(19, 0),
        make_sum_rows(2),
        make_token_segments(0),
        make_token_types(1, 2),
        make_top_k_hits(9, 3),
        make_transposed_convolution(window, {5, 4, 6}),
        make_transposed_convolution(window, {5, 4, 3}), // in groups
    };
}

} // namespace tessera
