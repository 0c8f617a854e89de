// SPDX-License-Identifier: Apache-2.0
// T5 (Raffel et al. 2020) as Hugging Face stores it, the first (relu) and version 1.1 (a gated MLP, a head of its own):
// queries, keys and values apart, the first block's table of distances for all blocks of a stack.
#include "core/encoder_model.hpp"
#include "core/formats/hugging_face/family.hpp"
#include "core/run/experiment.hpp"
#include "core/t5_model.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

// Theirs says of "gated-gelu" that it means GPT-2's.
struct NamedProjection {
    const char *theirs, *ours;
    bool gated;
};
constexpr std::array projections = {
    NamedProjection{"relu", "relu", false},
    NamedProjection{"gated-gelu", "gelu_tanh", true},
    NamedProjection{"gated-silu", "silu", true},
    NamedProjection{"gated-relu", "relu", true},
    NamedProjection{"gelu", "gelu", false},
    NamedProjection{"gelu_new", "gelu_tanh", false},
    NamedProjection{"gated-gelu_new", "gelu_tanh", true},
    NamedProjection{"silu", "silu", false},
};

const NamedProjection& projection(const JsonValues& config) {
    const std::string said = config.text("feed_forward_proj", "relu");
    for (const NamedProjection& known : projections)
        if (said == known.theirs) return known;
    config.refuse("feed_forward_proj", "expected relu, gelu, gelu_new, silu, gated-gelu, gated-silu or gated-relu");
}

std::vector<HubSetting> settings(const JsonValues& config) {
    const NamedProjection& mlp = projection(config);
    const std::int64_t layers = config.integer("num_layers");
    return {{"model.type", std::string("t5")},
            {"model.n_layers", layers},
            {"model.decoder_layers", config.integer("num_decoder_layers", layers)},
            {"model.n_heads", config.integer("num_heads")},
            {"model.head_dim", config.integer("d_kv")},
            {"model.dim", config.integer("d_model")},
            {"model.hidden_dim", config.integer("d_ff")},
            {"model.activation", std::string(mlp.ours)},
            {"model.gated_mlp", mlp.gated},
            {"model.norm", std::string("rms_norm")},
            {"model.norm_eps", config.number("layer_norm_epsilon", 1e-6)},
            {"model.bias", false},
            {"model.relative_buckets", config.integer("relative_attention_num_buckets", 32)},
            {"model.relative_max_distance", config.integer("relative_attention_max_distance", 128)},
            {"model.tied_head", config.flag("tie_word_embeddings", true)},
            {"model.padding_token", config.integer("pad_token_id", 0)},
            {"model.end_token", config.integer("eos_token_id", 1)},
            {"model.start_token", config.integer("decoder_start_token_id", config.integer("pad_token_id", 0))},
            {"training.seq_len", config.integer("n_positions", 512)},
            {"data.vocab_size", config.integer("vocab_size")}};
}

std::string name_of(std::string_view stored, const JsonValues& config) {
    if (stored == "encoder.embed_tokens.weight" || stored == "decoder.embed_tokens.weight") return ""; // shared.weight
    if (stored == "lm_head.weight" && config.flag("tie_word_embeddings", true)) return "";
    return std::string(stored);
}

struct Pair {
    std::string_view ours, theirs; // {}: the number of the MLP's part of a block
};
constexpr std::array in_block = {
    Pair{"attention_norm.scale", "layer.0.layer_norm.weight"},
    Pair{"cross_norm.scale", "layer.1.layer_norm.weight"},
    Pair{"mlp_norm.scale", "layer.{}.layer_norm.weight"},
    Pair{"mlp.gate.weight", "layer.{}.DenseReluDense.wi_0.weight"},
    Pair{"mlp.down.weight", "layer.{}.DenseReluDense.wo.weight"},
};
constexpr std::array in_stack = {
    Pair{"relative_bias.weight", "block.0.layer.0.SelfAttention.relative_attention_bias.weight"},
    Pair{"norm.scale", "final_layer_norm.weight"},
};

// Of products, which are matrices there: one run of rows for each part of ours.
std::vector<HubRows> products(const std::string& in, std::string_view parts, const Shape& part) {
    std::vector<HubRows> rows;
    for (const char letter : parts)
        rows.push_back({fmt::format("{}.{}.weight", in, letter), part});
    return rows;
}

std::vector<HubRows> attention_rows(const std::string& block, std::string_view name, const Config& config) {
    const std::int64_t width = config.get(model_dim), heads = std::max<std::int64_t>(config.get(model_heads), 1);
    const std::int64_t head_dim = config.get(model_head_dim) == 0 ? width / heads : config.get(model_head_dim);
    const Shape in{heads * head_dim, width}, out{width, heads * head_dim};
    const std::string own = block + "layer.0.SelfAttention", other = block + "layer.1.EncDecAttention";
    if (name == "attention.qkv.weight") return products(own, "qkv", in);
    if (name == "attention.out.weight") return products(own, "o", out);
    if (name == "cross.q.weight") return products(other, "q", in);
    if (name == "cross.kv.weight") return products(other, "kv", in);
    if (name == "cross.out.weight") return products(other, "o", out);
    return {};
}

std::vector<HubRows> rows_of(const std::string& name, const Shape& shape, const Config& config) {
    if (name == "embedding.weight") return {{"shared.weight", shape}};
    if (name == "head.weight") return {{"lm_head.weight", shape}};
    const bool decoder = name.starts_with("decoder.");
    if (!decoder && !name.starts_with("encoder.")) return {};
    const std::string stack = name.substr(0, 8), rest = name.substr(8);
    for (const Pair& pair : in_stack)
        if (rest == pair.ours) return {{stack + std::string(pair.theirs), shape}};
    const std::optional<NumberedName> in = numbered("layers", rest);
    if (!in || (!decoder && in->rest.starts_with("cross"))) return {};
    const std::string block = fmt::format("{}block.{}.", stack, in->number);
    const int last = decoder ? 2 : 1; // behind the parts that attend
    if (in->rest == "mlp.up.weight")
        return {
            {fmt::format("{}layer.{}.DenseReluDense.{}.weight", block, last, config.get(model_gated) ? "wi_1" : "wi"),
             shape}};
    for (const Pair& pair : in_block)
        if (in->rest == pair.ours) return {{block + fmt::format(fmt::runtime(pair.theirs), last), shape}};
    return attention_rows(block, in->rest, config);
}

bool fits(const Config& config) { return config.get(model_type) == "t5" && config.get(model_norm) == "rms_norm"; }

void fields(const Config& config, const Checkpoint& checkpoint, HubFields& fields) {
    if (config.get(model_bias)) config.refuse(model_bias.name, "Hugging Face's T5 has no biases");
    const std::string activation = config.get(model_activation);
    const bool gated = config.get(model_gated);
    const auto known = std::ranges::find_if(
        projections, [&](const NamedProjection& one) { return activation == one.ours && gated == one.gated; });
    if (known == projections.end())
        config.refuse(model_activation.name, "a gated T5 of Hugging Face has gelu_tanh, silu or relu");
    const std::int64_t heads = config.get(model_heads);
    fields.add_text("architectures", "[\"T5ForConditionalGeneration\"]");
    fields.add("is_encoder_decoder", true);
    fields.add("feed_forward_proj", known->theirs);
    fields.add("num_layers", config.get(model_layers));
    fields.add("num_decoder_layers",
               config.get(model_decoder_layers) > 0 ? config.get(model_decoder_layers) : config.get(model_layers));
    fields.add("num_heads", heads);
    fields.add("d_kv", config.get(model_head_dim) > 0 ? config.get(model_head_dim) : config.get(model_dim) / heads);
    fields.add("d_model", config.get(model_dim));
    fields.add("d_ff", shape_in(checkpoint, "encoder.layers.0.mlp.up.weight")[0]);
    fields.add("vocab_size", shape_in(checkpoint, "embedding.weight")[0]);
    fields.add("n_positions", config.get(training_sequence));
    fields.add("relative_attention_num_buckets", config.get(model_buckets));
    fields.add("relative_attention_max_distance", config.get(model_far));
    fields.add("layer_norm_epsilon", config.get(model_norm_epsilon));
    fields.add("dropout_rate", config.get(model_dropout));
    fields.add("tie_word_embeddings", config.get(model_tied_head));
    fields.add("decoder_start_token_id", config.get(model_start_token));
    if (config.get(model_padding_token) >= 0) fields.add("pad_token_id", config.get(model_padding_token));
    if (config.get(model_end_token) >= 0) fields.add("eos_token_id", config.get(model_end_token));
}

} // namespace

const HubFamily hub_t5{"t5", settings, name_of, rows_of, fits, fields};

} // namespace tessera
