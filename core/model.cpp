// SPDX-License-Identifier: Apache-2.0
// Models by name, and the GPT: embeddings, pre-norm blocks, a final norm, a head; a LLaMA (Touvron et al. 2023) is one
// of its keys: rope, rms_norm, a gated MLP with silu, fewer heads of keys, no biases. Weights start as in GPT-2
// (Radford et al. 2019): normal with a small deviation, the projections back into the residual stream scaled down by 1
// / sqrt(2 layers).
#include "core/model.hpp"

#include "core/block_options.hpp"
#include "core/encoder_model.hpp"
#include "core/evaluation_metrics.hpp"
#include "core/layered_model.hpp"
#include "core/layers/layers.hpp"
#include "core/ops/encoder_ops.hpp"
#include "core/t5_model.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "kernels/route.hpp"

#include <cmath>
#include <limits>

namespace tessera {

std::int64_t positive(const Config& config, const Key<std::int64_t>& key) {
    const std::int64_t value = config.get(key);
    if (value < 1) config.refuse(key.name, "must be at least 1");
    return value;
}

namespace {

double not_negative(const Config& config, const Key<double>& key) {
    const double value = config.get(key);
    if (!(value >= 0 && value < 1e6)) config.refuse(key.name, "must be from 0 to 1e6");
    return value;
}

double at_least_one(const Config& config, const Key<double>& key) {
    const double value = config.get(key);
    if (!(value >= 1 && value <= 1e12)) config.refuse(key.name, "must be from 1 to 1e12");
    return value;
}

kernels::RotaryScaling rotary_scaling(const Config& config) {
    const std::string kind = config.get(model_rope_scaling);
    kernels::RotaryScaling scaling;
    if (kind == "none") return scaling;
    scaling.factor = at_least_one(config, model_rope_factor);
    if (kind == "linear") {
        scaling.low_turns = scaling.high_turns = std::numeric_limits<double>::infinity();
        return scaling;
    }
    if (kind != "llama3")
        config.refuse(model_rope_scaling.name, no_such_name("scaling of angles", kind, {"linear", "llama3", "none"}));
    scaling.low_turns = not_negative(config, model_rope_low);
    scaling.high_turns = not_negative(config, model_rope_high);
    if (!(scaling.low_turns < scaling.high_turns))
        config.refuse(model_rope_high.name, "must be above model.rope_low_freq_factor");
    scaling.trained = static_cast<double>(positive(config, model_rope_trained));
    return scaling;
}

// Nothing where positions are learned.
std::optional<RotaryOptions> rotary_options(const Config& config) {
    const std::string positions = config.get(model_positions);
    if (positions == "rope") return RotaryOptions{at_least_one(config, model_rope_theta), rotary_scaling(config)};
    if (positions != "learned")
        config.refuse(model_positions.name, no_such_name("position embedding", positions, {"learned", "rope"}));
    return {};
}

layers::AttentionOptions attention_options(const Config& config) {
    layers::AttentionOptions options;
    options.width = positive(config, model_dim);
    options.heads = positive(config, model_heads);
    options.kv_heads = config.get(model_kv_heads);
    options.head_dim = config.get(model_head_dim);
    constexpr std::int64_t largest_head = 256; // kernels/attention.hpp
    if (options.head_dim < 0 || options.head_dim > largest_head)
        config.refuse(model_head_dim.name, fmt::format("must be from 0 to {}", largest_head));
    if (options.head_dim == 0 && options.width % options.heads != 0)
        config.refuse(model_heads.name,
                      fmt::format("model.dim = {} cannot be cut into {} heads", options.width, options.heads));
    if (options.kv_heads < 0 || (options.kv_heads > 0 && options.heads % options.kv_heads != 0))
        config.refuse(model_kv_heads.name,
                      fmt::format("{} heads cannot share {} heads of keys evenly", options.heads, options.kv_heads));
    options.rotary = rotary_options(config);
    const std::int64_t head = options.head_dim == 0 ? options.width / options.heads : options.head_dim;
    if (options.rotary && head % 2 != 0)
        config.refuse(model_positions.name, fmt::format("heads of {} have no pairs that could turn", head));
    return options;
}

std::int64_t hidden_width(const Config& config, std::int64_t width, bool gated) {
    constexpr std::int64_t whole = 32;
    const std::int64_t hidden = config.get(model_hidden_dim);
    if (hidden < 0) config.refuse(model_hidden_dim.name, "must be at least 0");
    if (hidden > 0) return hidden;
    return gated ? (8 * width / 3 + whole - 1) / whole * whole : 4 * width;
}

} // namespace

layers::TransformerBlockOptions block_options(const Config& config, std::int64_t blocks) {
    layers::TransformerBlockOptions options;
    options.attention = attention_options(config);
    const double dropout = config.get(model_dropout);
    if (dropout < 0 || dropout >= 1) config.refuse(model_dropout.name, "must be at least 0 and below 1");
    const double deviation = config.get(model_deviation);
    if (!(deviation > 0)) config.refuse(model_deviation.name, "must be above 0");
    const bool bias = config.get(model_bias), gated = config.get(model_gated);
    const double output_deviation = deviation / std::sqrt(2.0 * static_cast<double>(blocks));
    options.attention.bias = bias;
    options.attention.dropout = dropout;
    options.attention.deviation = deviation;
    options.attention.output_deviation = output_deviation;
    options.mlp = {.width = options.attention.width,
                   .hidden = hidden_width(config, options.attention.width, gated),
                   .activation = activation_named(config.get(model_activation)),
                   .gated = gated,
                   .bias = bias,
                   .dropout = dropout,
                   .deviation = deviation,
                   .output_deviation = output_deviation};
    options.norm = layers::norm_named(config.get(model_norm));
    options.norm_epsilon = config.get(model_norm_epsilon);
    if (!(options.norm_epsilon > 0 && options.norm_epsilon < 1))
        config.refuse(model_norm_epsilon.name, "must be above 0 and below 1");
    return options;
}

namespace {

layers::MoeOptions moe_options(const Config& config, const layers::MlpOptions& expert) {
    layers::MoeOptions options;
    options.experts = config.get(model_experts);
    if (options.experts < 0 || options.experts > most_experts)
        config.refuse(model_experts.name, fmt::format("must be from 0 to {}", most_experts));
    options.choices = positive(config, model_choices);
    if (options.experts > 0 && options.choices > options.experts)
        config.refuse(model_choices.name, fmt::format("there are {} experts", options.experts));
    options.capacity_factor = not_negative(config, model_capacity);
    if (options.capacity_factor == 0) config.refuse(model_capacity.name, "must be above 0");
    options.balance = not_negative(config, model_balance);
    options.z = not_negative(config, model_z);
    options.expert = expert;
    return options;
}

struct Logits {
    ValueId logits;
    std::vector<layers::Mixture> mixtures{};
};

// Several documents lie in one window, each with its end: keys of others are not attended.
layers::AttentionContext documents_apart(const Config& config, const ModelSizes& sizes, Builder& builder,
                                         ValueId tokens) {
    layers::AttentionContext context;
    const std::int64_t end = config.get(model_document_end);
    if (end < -1 || end >= sizes.sample.classes)
        config.refuse(model_document_end.name,
                      fmt::format("expected -1, or one of the numbers below {}", sizes.sample.classes));
    if (end >= 0)
        context.segments = ops::token_types(builder.graph(), "documents", tokens, static_cast<std::int32_t>(end),
                                            std::numeric_limits<std::int32_t>::max());
    return context;
}

Logits gpt_logits(const Config& config, const ModelSizes& sizes, Builder& builder, ValueId tokens) {
    const std::int64_t blocks = positive(config, model_layers);
    layers::TransformerBlockOptions block = block_options(config, blocks);
    const layers::MoeOptions moe = moe_options(config, block.mlp);
    const std::int64_t every = positive(config, model_moe_every);
    const std::int64_t width = block.attention.width;
    const layers::Embedded embedded = layers::embedding(builder,
                                                        {.vocabulary = sizes.sample.classes,
                                                         .width = width,
                                                         .dropout = block.mlp.dropout,
                                                         .deviation = block.mlp.deviation,
                                                         .learned_positions = !block.attention.rotary},
                                                        tokens);
    const layers::AttentionContext context = documents_apart(config, sizes, builder, tokens);
    layers::ResidualStream stream{embedded.x, no_value};
    std::vector<layers::Mixture> mixtures;
    for (int layer = 0; layer < blocks; ++layer) {
        block.moe = (layer + 1) % every == 0 ? moe : layers::MoeOptions();
        if (const auto mixture = layers::transformer_block(builder, layer, block, stream, context))
            mixtures.push_back(*mixture);
    }
    if (mixtures.empty() && moe.experts > 0)
        config.refuse(model_moe_every.name, fmt::format("none of the {} blocks has experts", blocks));
    const ValueId x = layers::norm(builder, "norm", block.norm, block.mlp.bias, stream, block.norm_epsilon);
    const ValueId head = config.get(model_tied_head)
                             ? embedded.table
                             : builder.table("head.weight", sizes.sample.classes, width, block.mlp.deviation);
    return {ops::linear(builder.graph(), "head", x, head, no_value), std::move(mixtures)};
}

} // namespace

namespace {

// What keeps a mixture's experts at work is minimised beside the loss, as the mean over the same tokens.
void take_losses_beside(Model& model, const Config& config, const std::vector<layers::Mixture>& mixtures,
                        ValueId gradient_scale) {
    for (const layers::Mixture& mixture : mixtures) {
        model.graph.accumulate(mixture.losses);
        model.routings.push_back(mixture.losses);
        if (config.get(model_balance) != 0 || config.get(model_z) != 0)
            model.losses_beside.push_back({mixture.loss, gradient_scale});
    }
}

} // namespace

namespace {

// Of a model with one loss over all that the data want.
ValueId counted_targets(Model& model, const Config& config, const ModelSizes& sizes) {
    const std::int64_t left_out = config.get(loss_ignore_index);
    if (left_out < -1 || left_out >= sizes.sample.classes)
        config.refuse(loss_ignore_index.name,
                      fmt::format("expected -1, or one of the numbers below {}", sizes.sample.classes));
    const ValueId targets = targets_without(model, "targets_that_count", model.inputs.back(), left_out);
    if (left_out >= 0 || sizes.sample.leaves_out) count_targets(model, targets);
    return targets;
}

Model build_gpt(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    if (!sizes.sample.is_text())
        config.refuse(model_type.name, fmt::format("reads tokens, and samples here have '{}': "
                                                   "model.type = \"layers\" reads them",
                                                   sizes.sample.fields[0].name));
    Model model;
    declare_inputs(model, sizes, purpose);
    Builder builder(model.graph, sizes.precision, purpose == Purpose::train);
    builder.adapt(lora_options(config));
    const auto [logits, mixtures] = gpt_logits(config, sizes, builder, model.inputs[0]);
    if (!mixtures.empty()) model.choices = config.get(model_choices);
    const std::int64_t vocabulary = sizes.sample.classes;
    switch (purpose) {
    case Purpose::train: {
        const ValueId targets = counted_targets(model, config, sizes);
        const ValueId scale = gradient_scale(model, config, sizes, "gradient_scale", 1);
        take_losses_beside(model, config, mixtures, scale);
        const double smoothing = config.get(loss_label_smoothing);
        if (!(smoothing >= 0 && smoothing < 1))
            config.refuse(loss_label_smoothing.name, "must be at least 0 and below 1");
        model.losses = {{smoothing > 0 ? ops::smoothed_cross_entropy(model.graph, "loss", logits, targets, scale,
                                                                     vocabulary, smoothing, no_value)
                                       : ops::cross_entropy(model.graph, "loss", logits, targets, scale, vocabulary)}};
        break;
    }
    case Purpose::evaluate: {
        const ValueId targets = counted_targets(model, config, sizes);
        model.losses = {{ops::cross_entropy_loss(model.graph, "loss", logits, targets, vocabulary)}};
        model.graph.accumulate(model.loss());
        check_metrics(config, true, false, true);
        append_metrics(model, config, {"", logits, targets, model.counted, vocabulary, {}, sizes.samples_evaluated});
        break;
    }
    case Purpose::generate:
        model.logits = logits;
        model.graph.keep(logits);
        break;
    }
    return model;
}

} // namespace

namespace {

// What strategies decide by (parallel/strategies/strategy.hpp).
std::string role_of(const Field& field, const SampleForm& sample) {
    if (sample.is_text() || (sample.is_labelled_text() && field.dtype == DType::i32 && field.shape.rank() == 1))
        return "tokens";
    return field.shape.rank() == 3 ? "image" : "";
}

} // namespace

void declare_inputs(Model& model, const ModelSizes& sizes, Purpose purpose) {
    for (const Field& field : sizes.sample.fields) {
        Shape shape{sizes.batch};
        for (int dim = 0; dim < field.shape.rank(); ++dim)
            shape.append(field.shape[dim]);
        model.inputs.push_back(model.graph.input(field.name, {shape, field.dtype}, role_of(field, sizes.sample)));
        if (purpose == Purpose::generate) return;
    }
}

ValueId gradient_scale(Model& model, const Config& config, const ModelSizes& sizes, const std::string& name,
                       double weight) {
    if (sizes.precision.compute == DType::f16) {
        if (!model.loss_scale) model.loss_scale = append_loss_scale(model.graph, config, sizes.units_per_step);
        if (weight == 1) return model.loss_scale->of_gradient;
        return append_weighted_scale(model.graph, name, *model.loss_scale, weight);
    }
    const auto scale = static_cast<float>(weight / static_cast<double>(sizes.units_per_step));
    return model.graph.step_input(name, {{}, DType::f32},
                                  [scale](const StepState&, const View& host) { *host.as<float>() = scale; });
}

void count_targets(Model& model, ValueId targets, ValueId class_weights) {
    model.counted = ops::counted_targets(model.graph, "counted", targets, class_weights);
    model.graph.accumulate(model.counted);
}

ValueId targets_without(Model& model, const std::string& name, ValueId targets, std::int64_t left_out) {
    if (left_out < 0) return targets;
    return ops::leave_out(model.graph, name, targets, static_cast<std::int32_t>(left_out));
}

Model build_model(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    const std::string type = config.get(model_type);
    if (type == "gpt") return build_gpt(config, sizes, purpose);
    if (type == "bert") return build_bert(config, sizes, purpose);
    if (type == "t5") return build_t5(config, sizes, purpose);
    if (type == "vit") return build_vit(config, sizes, purpose);
    if (type == "layers") return build_layered_model(config, sizes, purpose);
    config.refuse(model_type.name, no_such_name("model", type, {"bert", "gpt", "layers", "t5", "vit"}));
}

std::int64_t parameter_count(const Graph& graph) {
    std::int64_t count = 0;
    for (const ValueId id : graph.of_kind(ValueKind::parameter))
        count += graph.value(id).shape_outside().count();
    return count;
}

std::int64_t trained_parameter_count(const Graph& graph) {
    std::int64_t count = 0;
    for (const ValueId id : graph.trained())
        count += graph.value(id).shape_outside().count();
    return count;
}

std::int64_t active_parameter_count(const Model& model) {
    std::int64_t count = parameter_count(model.graph);
    for (const ValueId id : model.graph.of_kind(ValueKind::parameter)) {
        const Value& value = model.graph.value(id);
        if (!value.parameter->role.starts_with("expert")) continue;
        const std::int64_t experts = value.type.shape[0];
        count -= value.type.shape.count() / experts * (experts - model.choices);
    }
    return count;
}

std::string parameters_text(const Model& model) {
    const std::int64_t count = parameter_count(model.graph), active = active_parameter_count(model);
    std::string text = with_thousands(count) + " parameters";
    if (active != count) text += fmt::format(", of which {} work on a token", with_thousands(active));
    const std::int64_t trained = trained_parameter_count(model.graph);
    return trained == count ? text : fmt::format("{}, of which {} are trained", text, with_thousands(trained));
}

} // namespace tessera
