// SPDX-License-Identifier: Apache-2.0
// BERT (Devlin et al. 2019) and the small encoders of its kind (MiniLM) as Hugging Face stores them: queries, keys and
// values apart, a prefix that the bare encoder lacks, "gamma" and "beta" in old files; as a masked language model or a
// classifier of texts. The next sentence's head, and a pooler without a classifier, are left out: nothing here computes
// them.
#include "core/encoder_model.hpp"
#include "core/formats/hugging_face/family.hpp"
#include "kernels/error.hpp"

#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

struct NamedActivation {
    const char *theirs, *ours;
};
constexpr std::array activations = {NamedActivation{"gelu", "gelu"},
                                    NamedActivation{"gelu_new", "gelu_tanh"},
                                    NamedActivation{"gelu_pytorch_tanh", "gelu_tanh"},
                                    NamedActivation{"relu", "relu"},
                                    NamedActivation{"silu", "silu"},
                                    NamedActivation{"tanh", "tanh"}};

std::string our_activation(const JsonValues& config) {
    const std::string said = config.text("hidden_act", "gelu");
    for (const NamedActivation& activation : activations)
        if (said == activation.theirs) return activation.ours;
    config.refuse("hidden_act", "expected gelu, gelu_new, relu, silu or tanh");
}

bool has_mask_head(const JsonValues& config) {
    const std::string said = config.text("architectures.0", "BertModel");
    return said == "BertForMaskedLM" || said == "BertForPreTraining";
}

bool is_classifier(const JsonValues& config) {
    return config.text("architectures.0", "") == "BertForSequenceClassification";
}

std::vector<HubSetting> settings(const JsonValues& config) {
    if (config.text("position_embedding_type", "absolute") != "absolute")
        config.refuse("position_embedding_type", "only absolute positions are computed here");
    for (const char* name : {"is_decoder", "add_cross_attention"})
        if (config.flag(name, false)) config.refuse(name, "is not computed here");
    // config.json does not say where the vocabulary has what only the tokenizer knows: BERT's own have it there.
    const std::int64_t vocabulary = config.integer("vocab_size");
    const auto known = [&](std::int64_t id) { return id < vocabulary ? id : -1; };
    std::vector<HubSetting> settings = {{"model.type", std::string("bert")},
                                        {"model.n_layers", config.integer("num_hidden_layers")},
                                        {"model.n_heads", config.integer("num_attention_heads")},
                                        {"model.dim", config.integer("hidden_size")},
                                        {"model.hidden_dim", config.integer("intermediate_size")},
                                        {"model.activation", our_activation(config)},
                                        {"model.norm", std::string("layer_norm")},
                                        {"model.norm_eps", config.number("layer_norm_eps", 1e-12)},
                                        {"model.bias", true},
                                        {"model.token_types", config.integer("type_vocab_size", 2)},
                                        {"model.mask_head", has_mask_head(config)},
                                        {"model.mask_token", std::min<std::int64_t>(103, vocabulary - 1)},
                                        {"model.padding_token", config.integer("pad_token_id", 0)},
                                        {"model.class_token", known(101)},
                                        {"model.separator_token", known(102)},
                                        {"training.seq_len", config.integer("max_position_embeddings")},
                                        {"data.vocab_size", vocabulary}};
    if (is_classifier(config)) {
        settings.push_back({"data.reader", std::string("labelled")});
        settings.push_back({"data.classes", labels_of(config)});
    }
    return settings;
}

std::string name_of(std::string_view stored, const JsonValues& config) {
    constexpr std::string_view prefix = "bert.";
    if ((stored.starts_with("classifier.") && !is_classifier(config)) || stored.starts_with("cls.seq_relationship.") ||
        stored.starts_with("cls.predictions.decoder.") || (stored.starts_with("cls.") && !has_mask_head(config)))
        return "";
    std::string name(stored);
    if (!stored.starts_with("cls.") && !stored.starts_with("classifier.")) {
        if (stored.starts_with(prefix)) stored.remove_prefix(prefix.size());
        if ((stored.starts_with("pooler.") && !is_classifier(config)) || stored == "embeddings.position_ids") return "";
        name = std::string(prefix) + std::string(stored);
    }
    constexpr std::string_view gamma = ".gamma", beta = ".beta";
    if (name.ends_with(gamma)) return name.substr(0, name.size() - gamma.size()) + ".weight";
    if (name.ends_with(beta)) return name.substr(0, name.size() - beta.size()) + ".bias";
    return name;
}

constexpr std::array in_block = {
    HubPair{"attention.out.weight", "attention.output.dense.weight"},
    HubPair{"attention.out.bias", "attention.output.dense.bias"},
    HubPair{"attention_norm.scale", "attention.output.LayerNorm.weight"},
    HubPair{"attention_norm.bias", "attention.output.LayerNorm.bias"},
    HubPair{"mlp.up.weight", "intermediate.dense.weight"},
    HubPair{"mlp.up.bias", "intermediate.dense.bias"},
    HubPair{"mlp.down.weight", "output.dense.weight"},
    HubPair{"mlp.down.bias", "output.dense.bias"},
    HubPair{"mlp_norm.scale", "output.LayerNorm.weight"},
    HubPair{"mlp_norm.bias", "output.LayerNorm.bias"},
};
constexpr std::array outside = {
    HubPair{"embedding.weight", "bert.embeddings.word_embeddings.weight"},
    HubPair{"position.weight", "bert.embeddings.position_embeddings.weight"},
    HubPair{"type.weight", "bert.embeddings.token_type_embeddings.weight"},
    HubPair{"embedding_norm.scale", "bert.embeddings.LayerNorm.weight"},
    HubPair{"embedding_norm.bias", "bert.embeddings.LayerNorm.bias"},
    HubPair{"transform.weight", "cls.predictions.transform.dense.weight"},
    HubPair{"transform.bias", "cls.predictions.transform.dense.bias"},
    HubPair{"transform_norm.scale", "cls.predictions.transform.LayerNorm.weight"},
    HubPair{"transform_norm.bias", "cls.predictions.transform.LayerNorm.bias"},
    HubPair{"head.bias", "cls.predictions.bias"},
    HubPair{"pooler.bias", "bert.pooler.dense.bias"},
    HubPair{"classifier.weight", "classifier.weight"},
    HubPair{"classifier.bias", "classifier.bias"},
};

std::vector<HubRows> rows_of(const std::string& name, const Shape& shape, const Config& config) {
    for (const HubPair& pair : outside)
        if (name == pair.ours) return {{std::string(pair.theirs), shape}};
    if (name == "pooler.weight") return {{"bert.pooler.dense.weight", {config.get(model_dim), config.get(model_dim)}}};
    const std::optional<NumberedName> in = numbered("layers", name);
    if (!in) return {};
    const HubEncoderBlock kind{"attention.self.", in_block};
    return encoder_block_rows(kind, fmt::format("bert.encoder.layer.{}.", in->number), in->rest, shape,
                              config.get(model_dim));
}

bool fits(const Config& config) { return config.get(model_type) == "bert" && config.get(model_norm) == "layer_norm"; }

void fields(const Config& config, const Checkpoint& checkpoint, HubFields& fields) {
    if (!config.get(model_bias)) config.refuse(model_bias.name, "Hugging Face's BERT has biases");
    if (config.get(model_token_types) < 1) config.refuse(model_token_types.name, "Hugging Face's BERT has token types");
    const bool classifier = checkpoint.has("classifier.weight"), head = config.get(model_mask_head);
    fields.add_text("architectures", classifier ? "[\"BertForSequenceClassification\"]"
                                     : head     ? "[\"BertForMaskedLM\"]"
                                                : "[\"BertModel\"]");
    if (classifier) fields.add_text("id2label", labels_text(shape_in(checkpoint, "classifier.weight")[0]));
    const std::string activation = config.get(model_activation);
    for (const NamedActivation& known : activations)
        if (activation == known.ours) {
            fields.add("hidden_act", known.theirs);
            break;
        }
    fields.add("num_hidden_layers", config.get(model_layers));
    fields.add("num_attention_heads", config.get(model_heads));
    fields.add("hidden_size", config.get(model_dim));
    fields.add("intermediate_size", shape_in(checkpoint, "layers.0.mlp.up.weight")[0]);
    fields.add("max_position_embeddings", shape_in(checkpoint, "position.weight")[0]);
    fields.add("type_vocab_size", shape_in(checkpoint, "type.weight")[0]);
    fields.add("vocab_size", shape_in(checkpoint, "embedding.weight")[0]);
    fields.add("layer_norm_eps", config.get(model_norm_epsilon));
    fields.add("hidden_dropout_prob", config.get(model_dropout));
    fields.add("attention_probs_dropout_prob", 0.0);
    if (config.get(model_padding_token) >= 0) fields.add("pad_token_id", config.get(model_padding_token));
}

} // namespace

const HubFamily hub_bert{"bert", settings, name_of, rows_of, fits, fields};

} // namespace tessera
