// SPDX-License-Identifier: Apache-2.0
// ViT (Dosovitskiy et al. 2021) as Hugging Face stores it: queries, keys and values apart, filters with their channels
// first, and the label's classifier on top, or nothing but a prefix less: a ViTModel, which a model may start from. Its
// pooler is left out: nothing here computes it.
#include "core/data/options.hpp"
#include "core/encoder_model.hpp"
#include "core/formats/hugging_face/family.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

bool is_bare(const JsonValues& config) { return config.text("architectures.0", "") == "ViTModel"; }

std::vector<HubSetting> settings(const JsonValues& config) {
    if (!is_bare(config) && config.text("architectures.0", "") != "ViTForImageClassification")
        config.refuse("architectures", "expected ViTForImageClassification or ViTModel");
    if (!config.flag("qkv_bias", true)) config.refuse("qkv_bias", "products have biases here");
    const std::string activation = config.text("hidden_act", "gelu");
    if (activation != "gelu" && activation != "relu") config.refuse("hidden_act", "expected gelu or relu");
    const std::int64_t side = config.integer("image_size", 224);
    return {{"model.type", std::string("vit")},
            {"model.n_layers", config.integer("num_hidden_layers")},
            {"model.n_heads", config.integer("num_attention_heads")},
            {"model.dim", config.integer("hidden_size")},
            {"model.hidden_dim", config.integer("intermediate_size")},
            {"model.patch_size", config.integer("patch_size", 16)},
            {"model.activation", activation},
            {"model.norm", std::string("layer_norm")},
            {"model.norm_eps", config.number("layer_norm_eps", 1e-12)},
            {"model.bias", true},
            {"data.reader", std::string("idx")},
            {"data.image_shape", std::vector<std::int64_t>{side, side, config.integer("num_channels", 3)}},
            {"data.classes", labels_of(config)}};
}

std::string name_of(std::string_view stored, const JsonValues& config) {
    if (!is_bare(config)) return std::string(stored);
    return stored.starts_with("pooler.") ? "" : fmt::format("vit.{}", stored);
}

constexpr std::array in_block = {
    HubPair{"attention_norm.scale", "layernorm_before.weight"},
    HubPair{"attention_norm.bias", "layernorm_before.bias"},
    HubPair{"attention.out.weight", "attention.output.dense.weight"},
    HubPair{"attention.out.bias", "attention.output.dense.bias"},
    HubPair{"mlp_norm.scale", "layernorm_after.weight"},
    HubPair{"mlp_norm.bias", "layernorm_after.bias"},
    HubPair{"mlp.up.weight", "intermediate.dense.weight"},
    HubPair{"mlp.up.bias", "intermediate.dense.bias"},
    HubPair{"mlp.down.weight", "output.dense.weight"},
    HubPair{"mlp.down.bias", "output.dense.bias"},
};

std::vector<HubRows> rows_of(const std::string& name, const Shape& shape, const Config& config) {
    const std::int64_t width = config.get(model_dim);
    if (name == "class.weight") return {{"vit.embeddings.cls_token", {1, 1, width}}};
    if (name == "position.weight") return {{"vit.embeddings.position_embeddings", {1, shape[0], width}}};
    if (name == "patches.weight") {
        if (shape.rank() < 4) return {{"vit.embeddings.patch_embeddings.projection.weight", shape}};
        HubRows rows{"vit.embeddings.patch_embeddings.projection.weight", {shape[0], shape[3], shape[1], shape[2]}};
        rows.channels = shape[3];
        return {rows};
    }
    if (name == "patches.bias") return {{"vit.embeddings.patch_embeddings.projection.bias", shape}};
    if (name == "norm.scale") return {{"vit.layernorm.weight", shape}};
    if (name == "norm.bias") return {{"vit.layernorm.bias", shape}};
    if (name == "head.weight") return {{"classifier.weight", {shape[0], width}}};
    if (name == "head.bias") return {{"classifier.bias", shape}};
    const std::optional<NumberedName> in = numbered("layers", name);
    if (!in) return {};
    const HubEncoderBlock kind{"attention.attention.", in_block};
    return encoder_block_rows(kind, fmt::format("vit.encoder.layer.{}.", in->number), in->rest, shape,
                              config.get(model_dim));
}

bool fits(const Config& config) { return config.get(model_type) == "vit" && config.get(model_norm) == "layer_norm"; }

void fields(const Config& config, const Checkpoint& checkpoint, HubFields& fields) {
    if (!config.get(model_bias)) config.refuse(model_bias.name, "Hugging Face's ViT has biases");
    const std::string activation = config.get(model_activation);
    if (activation != "gelu" && activation != "relu")
        config.refuse(model_activation.name, "a ViT of Hugging Face has gelu or relu");
    const Shape filters = shape_in(checkpoint, "patches.weight");
    const std::int64_t patches = shape_in(checkpoint, "position.weight")[0] - 1;
    std::int64_t side = 1;
    while (side * side < patches)
        ++side;
    if (side * side != patches)
        config.refuse(model_type.name,
                      fmt::format("Hugging Face's ViT reads square images, this one {} patches", patches));
    fields.add_text("architectures", "[\"ViTForImageClassification\"]");
    fields.add("hidden_act", activation);
    fields.add("num_hidden_layers", config.get(model_layers));
    fields.add("num_attention_heads", config.get(model_heads));
    fields.add("hidden_size", config.get(model_dim));
    fields.add("intermediate_size", shape_in(checkpoint, "layers.0.mlp.up.weight")[0]);
    fields.add("patch_size", filters[1]);
    fields.add("num_channels", filters[3]);
    fields.add("image_size", side * filters[1]);
    fields.add("layer_norm_eps", config.get(model_norm_epsilon));
    fields.add("hidden_dropout_prob", config.get(model_dropout));
    fields.add("attention_probs_dropout_prob", 0.0);
    fields.add_text("id2label", labels_text(shape_in(checkpoint, "head.weight")[0]));
}

} // namespace

const HubFamily hub_vit{"vit", settings, name_of, rows_of, fits, fields};

} // namespace tessera
