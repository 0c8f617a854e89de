// SPDX-License-Identifier: Apache-2.0
// BERT and ViT put together from layers. Weights start normal with model.init_std, as the models' own do.
#include "core/encoder_model.hpp"

#include "core/block_options.hpp"
#include "core/evaluation_metrics.hpp"
#include "core/ops/encoder_ops.hpp"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// Slots of ops::place_rows, the same for each sample: rows [first, first + count) go to places from `place` on.
ValueId fixed_slots(Graph& graph, const std::string& name, std::int64_t samples, std::int64_t rows, std::int64_t count,
                    std::int32_t place) {
    return graph.step_input(name, {{samples, rows}, DType::i32}, [=](const StepState&, const View& host) {
        for (std::int64_t i = 0; i < host.count(); ++i)
            host.as<std::int32_t>()[i] = i % rows < count ? static_cast<std::int32_t>(i % rows) + place : -1;
    });
}

// x: (B, T, C) -> (B, 1, C)
ValueId first_row(Graph& graph, const std::string& name, ValueId x) {
    const Shape& shape = graph.value(x).type.shape;
    return ops::place_rows(graph, name, x, fixed_slots(graph, name + ".slots", shape[0], shape[1], 1, 0), 1);
}

layers::TransformerBlockOptions encoder_options(const Config& config, std::int64_t blocks) {
    layers::TransformerBlockOptions options = block_options(config, blocks);
    options.attention.causal = false;
    options.attention.output_deviation = options.mlp.output_deviation = options.mlp.deviation;
    return options;
}

ValueId dropped(Builder& builder, const std::string& name, const layers::TransformerBlockOptions& options, ValueId x) {
    if (options.mlp.dropout == 0 || !builder.training()) return x;
    return ops::dropout(builder.graph(), name, x, options.mlp.dropout);
}

// y = x w^T + bias of the one row that stands for a sample: x (B, 1, C), y (B, width).
ValueId product_of_row(Builder& builder, const std::string& name, std::int64_t width, double deviation, ValueId x) {
    const std::int64_t inputs = builder.graph().value(x).type.shape[-1];
    const ValueId weight = builder.linear_weight(name + ".weight", {width, 1, inputs}, "whole", deviation);
    return builder.linear(name, x, weight, builder.vector(name + ".bias", {width}, "bias", 0), 2);
}

// The loss of classes, and its accuracy in evaluation.
void take_classes(Model& model, const Config& config, const ModelSizes& sizes, Purpose purpose, ValueId logits) {
    const ValueId labels = model.inputs.back();
    if (purpose == Purpose::train) {
        const ValueId scale = gradient_scale(model, config, sizes, "gradient_scale", 1);
        const std::int64_t classes = sizes.sample.classes;
        model.losses = {{sizes.sample.soft_labels
                             ? ops::soft_cross_entropy(model.graph, "loss", logits, labels, scale, classes, 0)
                             : ops::cross_entropy(model.graph, "loss", logits, labels, scale, classes)}};
        return;
    }
    model.losses = {{ops::cross_entropy_loss(model.graph, "loss", logits, labels, sizes.sample.classes)}};
    model.graph.accumulate(model.loss());
    const ValueId hits = ops::accuracy(model.graph, "accuracy", logits, labels);
    model.graph.accumulate(hits);
    model.told.push_back({"accuracy", hits});
    check_metrics(config, true, false, false);
    append_metrics(model, config, {"", logits, labels, no_value, sizes.sample.classes, {}, sizes.samples_evaluated});
}

class Bert {
public:
    Bert(const Config& config, const ModelSizes& sizes, Purpose purpose)
        : config_(config), sizes_(sizes), purpose_(purpose),
          options_(encoder_options(config, positive(config, model_layers))),
          words_(sizes.sample.is_labelled_text() ? sizes.sample.marks.vocabulary : sizes.sample.classes) {
        const bool pairs = sizes.sample.is_text() && sizes.sample.marks.vocabulary > 0;
        if (pairs || (!sizes.sample.is_text() && !sizes.sample.is_labelled_text()))
            config.refuse(model_type.name, fmt::format("bert reads a text, and samples here begin with '{}'",
                                                       sizes.sample.fields[0].name));
    }

    Model build() {
        declare_inputs(model_, sizes_, purpose_);
        Builder builder(model_.graph, sizes_.precision, purpose_ == Purpose::train);
        find_words();
        const ValueId tokens = model_.inputs[0];
        if (sizes_.sample.is_labelled_text()) {
            classify(builder, encode(builder, tokens, tokens));
            return std::move(model_);
        }
        if (purpose_ == Purpose::generate) {
            model_.logits = head(builder, encode(builder, tokens, tokens));
            model_.graph.keep(model_.logits);
            return std::move(model_);
        }
        const ops::MaskedTokens masked = ops::mask_tokens(
            model_.graph, "mask", tokens, mask_, sizes_.units_per_step / sizes_.sample.units, sizes_.samples_ahead);
        find_masked(builder, encode(builder, tokens, masked.masked), masked);
        return std::move(model_);
    }

private:
    std::int32_t token(const Key<std::int64_t>& key) const {
        const std::int64_t id = config_.get(key);
        if (id < -1 || id >= words_) config_.refuse(key.name, fmt::format("there are {} tokens", words_));
        return static_cast<std::int32_t>(id);
    }

    // Of the data, where they say so.
    std::int32_t token(const Key<std::int64_t>& key, std::int32_t of_data) const {
        const std::int32_t said = token(key);
        if (of_data >= 0 && said >= 0 && said != of_data)
            config_.refuse(key.name, fmt::format("in these data it is token {}", of_data));
        return of_data >= 0 ? of_data : said;
    }

    // The rows of the table, and the tokens with a meaning of their own.
    void find_words() {
        const TextMarks& marks = sizes_.sample.marks;
        padding_ = token(model_padding_token, marks.padding);
        separator_ = token(model_separator_token, marks.end);
        const std::int32_t first = token(model_class_token, marks.begin);
        const double share = config_.get(model_mask_probability);
        if (!(share > 0 && share < 1)) config_.refuse(model_mask_probability.name, "must be above 0 and below 1");
        const auto tokens = static_cast<double>(sizes_.sample.fields[0].shape[0]);
        mask_ = {.chosen = std::max<std::int64_t>(1, std::llround(share * tokens)),
                 .mask = token(model_mask_token),
                 .below = static_cast<std::int32_t>(words_),
                 .kept = {padding_, separator_, first, -1}};
        if (mask_.mask < 0) mask_.mask = static_cast<std::int32_t>(words_++);
    }

    // (B, T) ids -> (B, T, C). What is padding, and where a type ends, the ids as they were say.
    ValueId encode(Builder& builder, ValueId tokens, ValueId ids) {
        Graph& graph = model_.graph;
        const std::int64_t width = options_.attention.width, time = sizes_.sample.fields[0].shape[0];
        const double deviation = options_.mlp.deviation;
        table_ = builder.table("embedding.weight", words_, width, deviation);
        const ValueId positions = builder.matrix("position.weight", {time, width}, "position", deviation);
        const std::int64_t types = config_.get(model_token_types);
        if (types < 0 || types > 1024) config_.refuse(model_token_types.name, "must be from 0 to 1024");
        const ValueId type_table =
            types > 0 ? builder.matrix("type.weight", {types, width}, "types", deviation) : no_value;
        ValueId x = ops::embedding(graph, "embedding", ids, table_, words_);
        x = ops::add_rows(graph, "position", x, positions);
        if (types > 0) {
            const ValueId of_tokens =
                ops::token_types(graph, "types", tokens, separator_, static_cast<std::int32_t>(types));
            x = ops::add(graph, "type", x, ops::embedding(graph, "type.embedding", of_tokens, type_table, types));
        }
        layers::ResidualStream stream{x, no_value};
        x = layers::norm(builder, "embedding_norm", options_.norm, options_.attention.bias, stream,
                         options_.norm_epsilon);
        x = dropped(builder, "embedding.dropout", options_, x);
        layers::AttentionContext context;
        if (padding_ >= 0) context.segments = ops::token_segments(graph, "segments", tokens, padding_);
        const auto blocks = static_cast<int>(positive(config_, model_layers));
        for (int layer = 0; layer < blocks; ++layer)
            x = layers::post_norm_block(builder, layer, options_, x, context);
        return x;
    }

    // A bias of the table's logits, with its padding.
    ValueId table_bias(Builder& builder) {
        return model_.graph.parameter(builder.path("head.bias"), {rows_in_memory(words_)},
                                      {"vocabulary", -1, {}, false, words_});
    }

    // Logits of the rows of x, (B, rows, C).
    ValueId head(Builder& builder, ValueId x) {
        Graph& graph = model_.graph;
        if (!config_.get(model_mask_head)) return ops::linear(graph, "head", x, table_, no_value);
        const std::int64_t width = options_.attention.width;
        const ValueId weight =
            builder.linear_weight("transform.weight", {width, width}, "whole", options_.mlp.deviation);
        x = builder.linear("transform", x, weight, builder.vector("transform.bias", {width}, "bias", 0));
        layers::ResidualStream stream{ops::activation(graph, "transform.activation", options_.mlp.activation, x)};
        x = layers::norm(builder, "transform_norm", options_.norm, options_.attention.bias, stream,
                         options_.norm_epsilon);
        return ops::linear(graph, "head", x, table_, table_bias(builder));
    }

    // The class of what the first token has come to. The keys of the other head may stand in the config, since it may
    // be that of the weights to start from.
    void classify(Builder& builder, ValueId x) {
        config_.get(model_mask_head);
        Graph& graph = model_.graph;
        const std::int64_t width = options_.attention.width;
        const double deviation = options_.mlp.deviation;
        x = product_of_row(builder, "pooler", width, deviation, first_row(graph, "first", x));
        x = ops::activation(graph, "pooler.activation", Activation::tanh, x);
        x = dropped(builder, "pooler.dropout", options_, x);
        const ValueId weight =
            builder.linear_weight("classifier.weight", {sizes_.sample.classes, width}, "whole", deviation);
        const ValueId bias = builder.vector("classifier.bias", {sizes_.sample.classes}, "bias", 0);
        take_classes(model_, config_, sizes_, purpose_, builder.linear("classifier", x, weight, bias));
    }

    void find_masked(Builder& builder, ValueId x, const ops::MaskedTokens& masked) {
        Graph& graph = model_.graph;
        const ValueId logits = head(builder, ops::place_rows(graph, "masked", x, masked.slots, mask_.chosen));
        // Losses are told per token of a sample; of these the masked ones are to be found. Where some tokens are never
        // masked, samples differ in how many that is.
        const bool counts = std::ranges::any_of(mask_.kept, [](std::int32_t id) { return id >= 0; });
        if (counts) count_targets(model_, masked.targets);
        const double weight_of_loss =
            counts ? 1 : static_cast<double>(sizes_.sample.units) / static_cast<double>(mask_.chosen);
        if (purpose_ == Purpose::train) {
            const ValueId scale = gradient_scale(model_, config_, sizes_, "gradient_scale", weight_of_loss);
            model_.losses = {
                {ops::cross_entropy(graph, "loss", logits, masked.targets, scale, words_), weight_of_loss}};
            return;
        }
        model_.losses = {{ops::cross_entropy_loss(graph, "loss", logits, masked.targets, words_), weight_of_loss}};
        graph.accumulate(model_.loss());
    }

    const Config& config_;
    const ModelSizes& sizes_;
    Purpose purpose_;
    layers::TransformerBlockOptions options_;
    std::int64_t words_; // rows of the table
    std::int32_t padding_ = -1, separator_ = -1;
    TokenMask mask_{};
    ValueId table_ = no_value;
    Model model_;
};

} // namespace

Model build_bert(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    return Bert(config, sizes, purpose).build();
}

Model build_vit(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    const Shape& image = sizes.sample.fields[0].shape;
    if (image.rank() != 3 || sizes.sample.classes == 0)
        config.refuse(model_type.name, fmt::format("vit reads images with a label, and samples here begin with '{}' {}",
                                                   sizes.sample.fields[0].name, image.text()));
    if (purpose == Purpose::generate)
        config.refuse(model_type.name, "vit writes no text: generate wants a language model, model.type = \"gpt\"");
    const std::int64_t patch = positive(config, model_patch);
    if (image[0] % patch != 0 || image[1] % patch != 0)
        config.refuse(model_patch.name,
                      fmt::format("images of {} x {} cannot be cut into patches of {}", image[0], image[1], patch));
    const std::int64_t blocks = positive(config, model_layers);
    const layers::TransformerBlockOptions options = encoder_options(config, blocks);
    const std::int64_t width = options.attention.width, patches = image[0] / patch * (image[1] / patch);
    const double deviation = options.mlp.deviation;

    Model model;
    declare_inputs(model, sizes, purpose);
    Graph& graph = model.graph;
    Builder builder(graph, sizes.precision, purpose == Purpose::train);
    builder.adapt(lora_options(config));
    const ValueId weight = builder.matrix("patches.weight", {width, patch, patch, image[2]}, "whole", deviation);
    const ValueId bias = builder.vector("patches.bias", {width}, "bias", 0);
    const ValueId of_class = builder.matrix("class.weight", {1, width}, "whole", deviation);
    const ValueId positions = builder.matrix("position.weight", {patches + 1, width}, "whole", deviation);

    ValueId pixels = model.inputs[0];
    if (builder.compute() != DType::f32) pixels = ops::cast(graph, "image.in_use", pixels, builder.compute());
    const Window window{{.size = patch, .stride = patch}, {.size = patch, .stride = patch}};
    const ValueId cut = ops::convolution(graph, "patches", pixels, weight, bias, window);
    // The class token before them: each goes to its places of a sequence of 1 + patches.
    const ValueId zeros = fixed_slots(graph, "class.tokens", sizes.batch, 1, 1, 0);
    const ValueId first = ops::embedding(graph, "class", zeros, of_class, 1);
    const ValueId after = fixed_slots(graph, "patches.slots", sizes.batch, patches, patches, 1);
    ValueId x = ops::add(graph, "sequence", ops::place_rows(graph, "patches.placed", cut, after, patches + 1),
                         ops::place_rows(graph, "class.placed", first, zeros, patches + 1));
    x = ops::add_rows(graph, "position", x, positions);
    layers::ResidualStream stream{dropped(builder, "position.dropout", options, x), no_value};
    for (int layer = 0; layer < blocks; ++layer)
        layers::transformer_block(builder, layer, options, stream);
    x = layers::norm(builder, "norm", options.norm, options.attention.bias, stream, options.norm_epsilon);
    const ValueId logits =
        product_of_row(builder, "head", sizes.sample.classes, deviation, first_row(graph, "first", x));
    take_classes(model, config, sizes, purpose, logits);
    return model;
}

} // namespace tessera
