// SPDX-License-Identifier: Apache-2.0
// LLaMA (Touvron et al. 2023) as Hugging Face stores it. Its queries and keys turn by halves of a head, as ours do, so
// no rows are permuted; where heads share keys, ours lie group after group.
#include "core/formats/hugging_face/family.hpp"
#include "core/model.hpp"
#include "core/run/experiment.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

struct NamedActivation {
    const char *theirs, *ours;
};
constexpr std::array activations = {NamedActivation{"silu", "silu"}, NamedActivation{"gelu", "gelu"},
                                    NamedActivation{"gelu_pytorch_tanh", "gelu_tanh"}, NamedActivation{"relu", "relu"},
                                    NamedActivation{"tanh", "tanh"}};

std::string our_activation(const JsonValues& config) {
    const std::string said = config.text("hidden_act", "silu");
    for (const NamedActivation& activation : activations)
        if (said == activation.theirs) return activation.ours;
    config.refuse("hidden_act", "expected silu, gelu, gelu_pytorch_tanh, relu or tanh");
}

// Where angles are said: of transformers 5 in a table of their own, before that beside it and in "rope_scaling".
std::string rope_table(const JsonValues& config) {
    constexpr std::string_view table = "rope_parameters.";
    constexpr std::array known = {"rope_theta",
                                  "rope_type",
                                  "type",
                                  "factor",
                                  "low_freq_factor",
                                  "high_freq_factor",
                                  "original_max_position_embeddings"};
    bool found = false, old = false;
    for (const auto& [name, value] : config.all())
        old = old || name.starts_with("rope_scaling.");
    for (const auto& [name, value] : config.all()) {
        if (!name.starts_with(table)) continue;
        if (old) config.refuse(name, "stands beside rope_scaling, which says the same in another way");
        found = true;
        const std::string_view key = std::string_view(name).substr(table.size());
        if (key.find('.') != std::string_view::npos)
            config.refuse(name, "angles that are not the same in all layers are not computed here");
        if (key == "partial_rotary_factor" && config.number(name) == 1) continue;
        if (std::ranges::find(known, key) == known.end()) config.refuse(name, "is not computed here");
    }
    return found ? std::string(table) : "rope_scaling.";
}

void add_angles(const JsonValues& config, std::vector<HubSetting>& settings) {
    const std::string table = rope_table(config);
    const std::string theta = config.has(table + "rope_theta") ? table + "rope_theta" : "rope_theta";
    settings.push_back({"model.rope_theta", config.number(theta, 10000)});
    const std::string name = table + (config.has(table + "type") ? "type" : "rope_type");
    const std::string kind = config.text(name, "default");
    if (kind == "default") return;
    if (kind != "linear" && kind != "llama3") config.refuse(name, "expected default, linear or llama3");
    settings.push_back({"model.rope_scaling", kind});
    settings.push_back({"model.rope_factor", config.number(table + "factor")});
    if (kind == "linear") return;
    settings.push_back({"model.rope_low_freq_factor", config.number(table + "low_freq_factor")});
    settings.push_back({"model.rope_high_freq_factor", config.number(table + "high_freq_factor")});
    settings.push_back({"model.rope_original_seq_len", config.integer(table + "original_max_position_embeddings")});
}

std::vector<HubSetting> settings(const JsonValues& config) {
    const std::int64_t heads = config.integer("num_attention_heads");
    const bool bias = config.flag("attention_bias", false);
    if (config.flag("mlp_bias", false) != bias)
        config.refuse("mlp_bias", "here either all linear layers have biases or none");
    std::vector<HubSetting> settings = {{"model.type", std::string("gpt")},
                                        {"model.n_layers", config.integer("num_hidden_layers")},
                                        {"model.n_heads", heads},
                                        {"model.n_kv_heads", config.integer("num_key_value_heads", heads)},
                                        {"model.head_dim", config.integer("head_dim", 0)},
                                        {"model.dim", config.integer("hidden_size")},
                                        {"model.hidden_dim", config.integer("intermediate_size")},
                                        {"model.activation", our_activation(config)},
                                        {"model.gated_mlp", true},
                                        {"model.norm", std::string("rms_norm")},
                                        {"model.norm_eps", config.number("rms_norm_eps", 1e-6)},
                                        {"model.bias", bias},
                                        {"model.position_embedding", std::string("rope")},
                                        {"model.tied_head", config.flag("tie_word_embeddings", false)},
                                        {"training.seq_len", config.integer("max_position_embeddings", 2048)},
                                        {"data.vocab_size", config.integer("vocab_size")}};
    add_angles(config, settings);
    return settings;
}

std::string name_of(std::string_view stored, const JsonValues& config) {
    constexpr std::string_view prefix = "model.";
    if (stored == "lm_head.weight") return config.flag("tie_word_embeddings", false) ? "" : "lm_head.weight";
    if (stored.ends_with(".rotary_emb.inv_freq")) return "";
    if (stored.starts_with(prefix)) stored.remove_prefix(prefix.size());
    return std::string(prefix) + std::string(stored);
}

struct Sizes {
    std::int64_t width, heads, kv_heads, head_dim;

    explicit Sizes(const Config& config)
        : width(config.get(model_dim)), heads(std::max<std::int64_t>(config.get(model_heads), 1)),
          kv_heads(config.get(model_kv_heads) == 0 ? heads : config.get(model_kv_heads)),
          head_dim(config.get(model_head_dim) == 0 ? width / heads : config.get(model_head_dim)) {}
};

// `columns`: none of a bias.
std::vector<HubRows> qkv_rows(const std::string& block, const char* kind, const Sizes& sizes, const Shape& columns) {
    const auto some = [&](const char* name, std::int64_t heads, std::int64_t first, std::int64_t count) {
        Shape shape{heads * sizes.head_dim};
        for (int dim = 0; dim < columns.rank(); ++dim)
            shape.append(columns[dim]);
        return HubRows{fmt::format("{}.self_attn.{}_proj.{}", block, name, kind), shape, false, first * sizes.head_dim,
                       count * sizes.head_dim};
    };
    const std::int64_t groups = sizes.heads == sizes.kv_heads ? 1 : sizes.kv_heads;
    const std::int64_t queries = sizes.heads / groups, keys = sizes.kv_heads / groups;
    std::vector<HubRows> rows;
    for (std::int64_t group = 0; group < groups; ++group) {
        rows.push_back(some("q", sizes.heads, group * queries, queries));
        rows.push_back(some("k", sizes.kv_heads, group * keys, keys));
        rows.push_back(some("v", sizes.kv_heads, group * keys, keys));
    }
    return rows;
}

struct Pair {
    std::string_view ours, theirs;
};
constexpr std::array in_block = {
    Pair{"attention_norm.scale", "input_layernorm.weight"},
    Pair{"attention.out.bias", "self_attn.o_proj.bias"},
    Pair{"mlp_norm.scale", "post_attention_layernorm.weight"},
    Pair{"mlp.gate.weight", "mlp.gate_proj.weight"},
    Pair{"mlp.gate.bias", "mlp.gate_proj.bias"},
    Pair{"mlp.up.weight", "mlp.up_proj.weight"},
    Pair{"mlp.up.bias", "mlp.up_proj.bias"},
    Pair{"mlp.down.weight", "mlp.down_proj.weight"},
    Pair{"mlp.down.bias", "mlp.down_proj.bias"},
};
constexpr std::array outside = {Pair{"embedding.weight", "model.embed_tokens.weight"},
                                Pair{"norm.scale", "model.norm.weight"}, Pair{"head.weight", "lm_head.weight"}};

std::vector<HubRows> rows_of(const std::string& name, const Shape& shape, const Config& config) {
    for (const Pair& pair : outside)
        if (name == pair.ours) return {{std::string(pair.theirs), shape}};
    const std::optional<NumberedName> in = numbered("layers", name);
    if (!in) return {};
    const std::string block = fmt::format("model.layers.{}", in->number);
    const Sizes sizes(config);
    if (in->rest == "attention.qkv.weight") return qkv_rows(block, "weight", sizes, {sizes.width});
    if (in->rest == "attention.qkv.bias") return qkv_rows(block, "bias", sizes, {});
    if (in->rest == "attention.out.weight")
        return {{block + ".self_attn.o_proj.weight", {sizes.width, sizes.heads * sizes.head_dim}}};
    for (const Pair& pair : in_block)
        if (in->rest == pair.ours) return {{fmt::format("{}.{}", block, pair.theirs), shape}};
    return {};
}

bool fits(const Config& config) {
    return config.get(model_type) == "gpt" && config.get(model_norm) == "rms_norm" &&
           config.get(model_positions) == "rope" && config.get(model_gated) && config.get(model_experts) == 0;
}

std::string scaling_text(const Config& config) {
    const std::string kind = config.get(model_rope_scaling);
    if (kind == "none") return "null";
    HubFields fields;
    fields.add("rope_type", kind);
    fields.add("factor", config.get(model_rope_factor));
    if (kind == "llama3") {
        fields.add("low_freq_factor", config.get(model_rope_low));
        fields.add("high_freq_factor", config.get(model_rope_high));
        fields.add("original_max_position_embeddings", config.get(model_rope_trained));
    }
    return fields.text();
}

void fields(const Config& config, const Checkpoint& checkpoint, HubFields& fields) {
    const Sizes sizes(config);
    fields.add_text("architectures", "[\"LlamaForCausalLM\"]");
    const std::string activation = config.get(model_activation);
    for (const NamedActivation& known : activations)
        if (activation == known.ours) fields.add("hidden_act", known.theirs);
    for (const char* name : {"attention_bias", "mlp_bias"})
        fields.add(name, config.get(model_bias));
    fields.add("num_hidden_layers", config.get(model_layers));
    fields.add("num_attention_heads", sizes.heads);
    fields.add("num_key_value_heads", sizes.kv_heads);
    fields.add("head_dim", sizes.head_dim);
    fields.add("hidden_size", sizes.width);
    fields.add("intermediate_size", shape_in(checkpoint, "layers.0.mlp.up.weight")[0]);
    fields.add("vocab_size", shape_in(checkpoint, "embedding.weight")[0]);
    fields.add("max_position_embeddings", config.get(training_sequence));
    fields.add("rms_norm_eps", config.get(model_norm_epsilon));
    fields.add("rope_theta", config.get(model_rope_theta));
    fields.add_text("rope_scaling", scaling_text(config));
    fields.add("tie_word_embeddings", config.get(model_tied_head));
}

} // namespace

const HubFamily hub_llama{"llama", settings, name_of, rows_of, fits, fields};

} // namespace tessera
