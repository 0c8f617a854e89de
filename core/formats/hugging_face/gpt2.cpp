// SPDX-License-Identifier: Apache-2.0
// GPT-2 (Radford et al. 2019) as Hugging Face stores it: linear layers of a block are "Conv1D", (in, out), which is
// (out, in) transposed; a folder may lack the prefix "transformer.", and older ones hold masks.
#include "core/formats/hugging_face/family.hpp"
#include "core/model.hpp"
#include "kernels/error.hpp"

#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

struct NamedActivation {
    const char *theirs, *ours;
};
constexpr std::array activations = {
    NamedActivation{"gelu_new", "gelu_tanh"}, NamedActivation{"gelu_pytorch_tanh", "gelu_tanh"},
    NamedActivation{"gelu", "gelu"},          NamedActivation{"relu", "relu"},
    NamedActivation{"silu", "silu"},          NamedActivation{"tanh", "tanh"}};

std::string our_activation(const JsonValues& config) {
    const std::string said = config.text("activation_function", "gelu_new");
    for (const NamedActivation& activation : activations)
        if (said == activation.theirs) return activation.ours;
    config.refuse("activation_function", "expected gelu_new, gelu, relu, silu or tanh");
}

std::vector<HubSetting> settings(const JsonValues& config) {
    if (!config.flag("scale_attn_weights", true)) config.refuse("scale_attn_weights", "scores are always scaled here");
    for (const char* name : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"})
        if (config.flag(name, false)) config.refuse(name, "is not computed here");
    const std::int64_t width = config.integer("n_embd");
    return {{"model.type", std::string("gpt")},
            {"model.n_layers", config.integer("n_layer")},
            {"model.n_heads", config.integer("n_head")},
            {"model.dim", width},
            {"model.hidden_dim", config.integer("n_inner", 4 * width)},
            {"model.activation", our_activation(config)},
            {"model.norm", std::string("layer_norm")},
            {"model.norm_eps", config.number("layer_norm_epsilon", 1e-5)},
            {"model.bias", true},
            {"model.tied_head", config.flag("tie_word_embeddings", true)},
            {"training.seq_len", config.integer("n_positions")},
            {"data.vocab_size", config.integer("vocab_size")}};
}

std::string name_of(std::string_view stored, const JsonValues& config) {
    constexpr std::string_view prefix = "transformer.";
    if (stored == "lm_head.weight") return config.flag("tie_word_embeddings", true) ? "" : "lm_head.weight";
    if (stored.starts_with(prefix)) stored.remove_prefix(prefix.size());
    if (stored.ends_with(".attn.bias") || stored.ends_with(".attn.masked_bias")) return "";
    return std::string(prefix) + std::string(stored);
}

// Of a block: ours, theirs, and whether theirs is stored transposed.
struct Pair {
    std::string_view ours, theirs;
    bool transposed = false;
};
constexpr std::array in_block = {
    Pair{"attention_norm.scale", "ln_1.weight"},
    Pair{"attention_norm.bias", "ln_1.bias"},
    Pair{"attention.qkv.weight", "attn.c_attn.weight", true},
    Pair{"attention.qkv.bias", "attn.c_attn.bias"},
    Pair{"attention.out.weight", "attn.c_proj.weight", true},
    Pair{"attention.out.bias", "attn.c_proj.bias"},
    Pair{"mlp_norm.scale", "ln_2.weight"},
    Pair{"mlp_norm.bias", "ln_2.bias"},
    Pair{"mlp.up.weight", "mlp.c_fc.weight", true},
    Pair{"mlp.up.bias", "mlp.c_fc.bias"},
    Pair{"mlp.down.weight", "mlp.c_proj.weight", true},
    Pair{"mlp.down.bias", "mlp.c_proj.bias"},
};
constexpr std::array outside = {
    Pair{"embedding.weight", "transformer.wte.weight"},
    Pair{"position.weight", "transformer.wpe.weight"},
    Pair{"norm.scale", "transformer.ln_f.weight"},
    Pair{"norm.bias", "transformer.ln_f.bias"},
    Pair{"head.weight", "lm_head.weight"},
};

std::vector<HubRows> rows_of(const std::string& name, const Shape& shape, const Config& config) {
    for (const Pair& pair : outside)
        if (name == pair.ours) return {{std::string(pair.theirs), shape}};
    const std::optional<NumberedName> in = numbered("layers", name);
    if (!in) return {};
    for (const Pair& pair : in_block) {
        if (in->rest != pair.ours) continue;
        const std::string theirs = fmt::format("transformer.h.{}.{}", in->number, pair.theirs);
        if (!pair.transposed) return {{theirs, {shape.count()}}};
        const std::int64_t outputs = pair.ours == "attention.qkv.weight" ? 3 * config.get(model_dim) : shape[0];
        return {{theirs, {shape.count() / outputs, outputs}, true}};
    }
    return {};
}

bool fits(const Config& config) {
    return config.get(model_type) == "gpt" && config.get(model_norm) == "layer_norm" &&
           config.get(model_positions) == "learned" && !config.get(model_gated) && config.get(model_experts) == 0;
}

void fields(const Config& config, const Checkpoint& checkpoint, HubFields& fields) {
    if (!config.get(model_bias)) config.refuse(model_bias.name, "Hugging Face's GPT-2 has biases");
    const std::int64_t kv_heads = config.get(model_kv_heads);
    if (kv_heads != 0 && kv_heads != config.get(model_heads))
        config.refuse(model_kv_heads.name, "in Hugging Face's GPT-2 heads share no keys");
    if (config.get(model_head_dim) != 0) config.refuse(model_head_dim.name, "Hugging Face's GPT-2 has none of its own");
    fields.add_text("architectures", "[\"GPT2LMHeadModel\"]");
    const std::string activation = config.get(model_activation);
    for (const NamedActivation& known : activations)
        if (activation == known.ours) {
            fields.add("activation_function", known.theirs);
            break;
        }
    for (const char* name : {"attn_pdrop", "embd_pdrop", "resid_pdrop"})
        fields.add(name, name == std::string_view("attn_pdrop") ? 0.0 : config.get(model_dropout));
    fields.add("n_layer", config.get(model_layers));
    fields.add("n_head", config.get(model_heads));
    fields.add("n_embd", config.get(model_dim));
    fields.add("n_inner", shape_in(checkpoint, "layers.0.mlp.up.weight")[0]);
    fields.add("n_positions", shape_in(checkpoint, "position.weight")[0]);
    fields.add("vocab_size", shape_in(checkpoint, "embedding.weight")[0]);
    fields.add("layer_norm_epsilon", config.get(model_norm_epsilon));
    fields.add("tie_word_embeddings", config.get(model_tied_head));
}

} // namespace

const HubFamily hub_gpt2{"gpt2", settings, name_of, rows_of, fits, fields};

} // namespace tessera
