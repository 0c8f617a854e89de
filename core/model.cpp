// SPDX-License-Identifier: Apache-2.0
// The GPT: embeddings, pre-norm blocks, a final norm, a head. Weights start as in GPT-2 (Radford et al. 2019): normal
// with a small deviation, the projections back into the residual stream scaled down by 1 / sqrt(2 layers).
#include "core/model.hpp"

#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <cmath>

namespace tessera {
namespace {

std::int64_t positive(const Config& config, const Key<std::int64_t>& key) {
    const std::int64_t value = config.get(key);
    if (value < 1) config.refuse(key.name, "must be at least 1");
    return value;
}

layers::TransformerBlockOptions block_options(const Config& config, std::int64_t blocks) {
    layers::TransformerBlockOptions options;
    const std::int64_t width = positive(config, model_dim);
    const std::int64_t heads = positive(config, model_heads);
    if (width % heads != 0)
        config.refuse(model_heads.name, fmt::format("model.dim = {} cannot be cut into {} heads", width, heads));
    const double dropout = config.get(model_dropout);
    if (dropout < 0 || dropout >= 1) config.refuse(model_dropout.name, "must be at least 0 and below 1");
    const double deviation = config.get(model_deviation);
    if (!(deviation > 0)) config.refuse(model_deviation.name, "must be above 0");
    const std::int64_t hidden = config.get(model_hidden_dim);
    if (hidden < 0) config.refuse(model_hidden_dim.name, "must be at least 0");
    const bool bias = config.get(model_bias);
    const double output_deviation = deviation / std::sqrt(2.0 * static_cast<double>(blocks));
    options.attention = {.width = width,
                         .heads = heads,
                         .causal = true,
                         .bias = bias,
                         .dropout = dropout,
                         .deviation = deviation,
                         .output_deviation = output_deviation};
    options.mlp = {.width = width,
                   .hidden = hidden == 0 ? 4 * width : hidden,
                   .activation = activation_named(config.get(model_activation)),
                   .bias = bias,
                   .dropout = dropout,
                   .deviation = deviation,
                   .output_deviation = output_deviation};
    options.norm = layers::norm_named(config.get(model_norm));
    return options;
}

ValueId gpt_logits(const Config& config, const ModelSizes& sizes, Builder& builder, ValueId tokens) {
    const std::int64_t blocks = positive(config, model_layers);
    const layers::TransformerBlockOptions block = block_options(config, blocks);
    const std::int64_t width = block.attention.width;
    const layers::Embedded embedded =
        layers::embedding(builder, {sizes.vocabulary, width, block.mlp.dropout, block.mlp.deviation}, tokens);
    layers::ResidualStream stream{embedded.x, no_value};
    for (int layer = 0; layer < blocks; ++layer)
        layers::transformer_block(builder, layer, block, stream);
    const ValueId x = layers::norm(builder, "norm", block.norm, block.mlp.bias, stream);
    const ValueId head = config.get(model_tied_head)
                             ? embedded.table
                             : builder.table("head.weight", sizes.vocabulary, width, block.mlp.deviation);
    return ops::linear(builder.graph(), "head", x, head, no_value);
}

} // namespace

namespace {

// What the loss is multiplied by before its gradient is taken: the gradient is of the mean over the step's tokens.
ValueId gradient_scale(Model& model, const Config& config, const ModelSizes& sizes) {
    if (sizes.precision.compute == DType::f16) {
        model.loss_scale = append_loss_scale(model.graph, config, sizes.tokens_per_step);
        return model.loss_scale->of_gradient;
    }
    const float scale = 1.0f / static_cast<float>(sizes.tokens_per_step);
    return model.graph.step_input("gradient_scale", {{}, DType::f32},
                                  [scale](const StepState&, const View& host) { *host.as<float>() = scale; });
}

} // namespace

Model build_model(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    const std::string type = config.get(model_type);
    if (type != "gpt") config.refuse(model_type.name, no_such_name("model", type, {"gpt"}));
    Model model;
    const TensorType ids{{sizes.batch, sizes.sequence_length}, DType::i32};
    model.tokens = model.graph.input("tokens", ids);
    if (purpose != Purpose::generate) model.targets = model.graph.input("targets", ids);
    Builder builder(model.graph, sizes.precision, purpose == Purpose::train);
    const ValueId logits = gpt_logits(config, sizes, builder, model.tokens);
    switch (purpose) {
    case Purpose::train:
        model.loss = ops::cross_entropy(model.graph, "loss", logits, model.targets,
                                        gradient_scale(model, config, sizes), sizes.vocabulary);
        break;
    case Purpose::evaluate:
        model.loss = ops::cross_entropy_loss(model.graph, "loss", logits, model.targets, sizes.vocabulary);
        model.graph.accumulate(model.loss);
        break;
    case Purpose::generate:
        model.logits = logits;
        model.graph.keep(logits);
        break;
    }
    return model;
}

std::int64_t parameter_count(const Graph& graph) {
    std::int64_t count = 0;
    for (const ValueId id : graph.of_kind(ValueKind::parameter))
        count += graph.value(id).shape_outside().count();
    return count;
}

} // namespace tessera
