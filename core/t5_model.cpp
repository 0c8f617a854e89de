// SPDX-License-Identifier: Apache-2.0
// T5 put together from layers: pre-norm blocks without positions of their own, whose attention has a bias by distance
// and scores that are not scaled.
#include "core/t5_model.hpp"

#include "core/block_options.hpp"
#include "core/encoder_model.hpp"
#include "core/ops/encoder_ops.hpp"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

class T5 {
public:
    T5(const Config& config, const ModelSizes& sizes, Purpose purpose)
        : config_(config), sizes_(sizes), purpose_(purpose), vocabulary_(sizes.sample.classes),
          options_(block_options(config, positive(config, model_layers))), width_(options_.mlp.width),
          heads_(options_.attention.heads), buckets_(positive(config, model_buckets)),
          far_(positive(config, model_far)) {
        const std::vector<Field>& fields = sizes.sample.fields;
        const auto is_ids = [](const Field& field) { return field.dtype == DType::i32 && field.shape.rank() == 1; };
        if (fields.size() < 2 || !is_ids(fields.front()) || !is_ids(fields.back()) || vocabulary_ == 0)
            config.refuse(model_type.name,
                          fmt::format("t5 reads pairs of texts, and samples here begin with '{}'", fields[0].name));
        if (buckets_ < 4 || buckets_ % 4 != 0 || far_ <= buckets_ / 2)
            config.refuse(model_buckets.name,
                          "must be a multiple of 4, and model.relative_max_distance above half of it");
        // The start of T5's own (Mesh TensorFlow's): queries and keys share the factor that scores lack.
        const double of_width = 1 / std::sqrt(static_cast<double>(width_));
        const std::int64_t said = options_.attention.head_dim;
        const double head_dim =
            said > 0 ? static_cast<double>(said) : static_cast<double>(width_) / static_cast<double>(heads_);
        options_.attention.scale = 1;
        options_.attention.deviation = of_width / std::pow(head_dim, 0.25);
        options_.attention.output_deviation = of_width;
        options_.mlp.deviation = of_width;
        options_.mlp.output_deviation = 1 / std::sqrt(static_cast<double>(options_.mlp.hidden));
    }

    Model build() {
        declare_inputs(model_, sizes_, purpose_);
        Graph& graph = model_.graph;
        if (purpose_ == Purpose::generate) { // what is written so far is given, too
            const Field& written = sizes_.sample.fields.back();
            model_.inputs.push_back(
                graph.input(written.name, {{sizes_.batch, written.shape[0]}, DType::i32}, "tokens"));
        }
        Builder builder(graph, sizes_.precision, purpose_ == Purpose::train);
        tied_ = config_.get(model_tied_head);
        table_ = builder.table("embedding.weight", vocabulary_, width_, 1);
        const ValueId head =
            tied_ ? table_
                  : builder.table("head.weight", vocabulary_, width_, 1 / std::sqrt(static_cast<double>(width_)));
        const std::int32_t start = token(model_start_token);
        if (start < 0) config_.refuse(model_start_token.name, "must be a token, which decoders begin with");
        const ValueId source = model_.inputs.front(), targets = model_.inputs.back();
        const ValueId memory = encode(builder, source);
        ValueId x = decode(builder, ops::shift_tokens(graph, "shifted", targets, start), memory);
        if (tied_) x = ops::scale(graph, "head.scale", x, 1 / std::sqrt(static_cast<double>(width_)));
        const ValueId logits = ops::linear(graph, "head", x, head, no_value);
        if (purpose_ == Purpose::generate) {
            model_.logits = logits;
            graph.keep(logits);
            return std::move(model_);
        }
        if (sizes_.sample.leaves_out) count_targets(model_, targets);
        if (purpose_ == Purpose::train) {
            const ValueId scale = gradient_scale(model_, config_, sizes_, "gradient_scale", 1);
            model_.losses = {{ops::cross_entropy(graph, "loss", logits, targets, scale, vocabulary_)}};
        } else {
            model_.losses = {{ops::cross_entropy_loss(graph, "loss", logits, targets, vocabulary_)}};
            graph.accumulate(model_.loss());
        }
        return std::move(model_);
    }

private:
    std::int32_t token(const Key<std::int64_t>& key) const {
        const std::int64_t id = config_.get(key);
        if (id < -1 || id >= vocabulary_) config_.refuse(key.name, fmt::format("there are {} tokens", vocabulary_));
        return static_cast<std::int32_t>(id);
    }

    // The data's, where it fills up what is short.
    std::int32_t padding_token() const {
        const std::int32_t said = token(model_padding_token), known = sizes_.sample.marks.padding;
        if (known >= 0 && said >= 0 && known != said)
            config_.refuse(model_padding_token.name, fmt::format("these data fill up with token {}", known));
        return known >= 0 ? known : said;
    }

    ValueId embedded(Builder& builder, ValueId ids) {
        return dropped(builder, "embedding.dropout",
                       ops::embedding(model_.graph, builder.path("embedding"), ids, table_, vocabulary_));
    }
    ValueId dropped(Builder& builder, std::string_view name, ValueId x) {
        if (options_.mlp.dropout == 0 || !builder.training()) return x;
        return ops::dropout(model_.graph, builder.path(name), x, options_.mlp.dropout);
    }

    // (2 T - 1, H): of each distance the bias of its class.
    ValueId relative_bias(Builder& builder, std::int64_t times, bool both_directions) {
        const ValueId table = builder.exact_matrix("relative_bias.weight", {buckets_, heads_}, "head_bias",
                                                   1 / std::sqrt(static_cast<double>(width_)));
        const auto write = [=, buckets = buckets_, far = far_](const StepState&, const View& host) {
            for (std::int64_t i = 0; i < host.count(); ++i)
                host.as<std::int32_t>()[i] =
                    static_cast<std::int32_t>(relative_bucket(i - (times - 1), both_directions, buckets, far));
        };
        const ValueId classes = [&] {
            // Once a step, and the same for all samples; what an op makes of it there is kept.
            const Graph::PhaseGuard once(model_.graph, Phase::prepare);
            const ValueId made =
                model_.graph.step_input(builder.path("distances"), {{2 * times - 1}, DType::i32}, write);
            return ops::leave_out(model_.graph, builder.path("distance_classes"), made, -1);
        }();
        return ops::embedding(model_.graph, builder.path("relative_bias"), classes, table, buckets_);
    }

    ValueId normed(Builder& builder, std::string_view name, layers::ResidualStream& x) {
        return layers::norm(builder, name, options_.norm, options_.attention.bias, x, options_.norm_epsilon);
    }

    ValueId encode(Builder& builder, ValueId source) {
        const Builder::Scope scope(builder, "encoder");
        layers::AttentionContext context;
        context.bias = relative_bias(builder, model_.graph.value(source).type.shape[1], true);
        if (const std::int32_t padding = padding_token(); padding >= 0)
            context.segments = source_segments_ = ops::token_segments(model_.graph, "segments", source, padding);
        layers::AttentionOptions attention = options_.attention;
        attention.causal = false;
        layers::ResidualStream x{embedded(builder, source), no_value};
        const auto blocks = static_cast<int>(positive(config_, model_layers));
        for (int layer = 0; layer < blocks; ++layer) {
            const Builder::Scope block(builder, fmt::format("layers.{}", layer), layer);
            x.branch =
                layers::attention(builder, "attention", attention, normed(builder, "attention_norm", x), context);
            x.branch = layers::mlp(builder, "mlp", options_.mlp, normed(builder, "mlp_norm", x));
        }
        const Builder::Scope with_last(builder, "", blocks - 1); // in a pipeline it comes before the decoder
        return dropped(builder, "dropout", normed(builder, "norm", x));
    }

    ValueId decode(Builder& builder, ValueId ids, ValueId memory) {
        const Builder::Scope scope(builder, "decoder");
        layers::AttentionContext own, other;
        own.bias = relative_bias(builder, model_.graph.value(ids).type.shape[1], false);
        other.memory = memory;
        if (source_segments_ != no_value) { // what is no padding is of segment 1, and so are all queries
            other.segments = ops::token_segments(model_.graph, builder.path("segments"), ids, -1);
            other.key_segments = source_segments_;
        }
        const auto before = static_cast<int>(positive(config_, model_layers));
        const std::int64_t said = config_.get(model_decoder_layers);
        if (said < 0) config_.refuse(model_decoder_layers.name, "must be at least 0");
        const auto blocks = said > 0 ? static_cast<int>(said) : before;
        layers::AttentionOptions causal = options_.attention, cross = options_.attention;
        cross.causal = false;
        layers::ResidualStream x{embedded(builder, ids), no_value};
        for (int layer = 0; layer < blocks; ++layer) {
            const Builder::Scope block(builder, fmt::format("layers.{}", layer), before + layer);
            x.branch = layers::attention(builder, "attention", causal, normed(builder, "attention_norm", x), own);
            x.branch = layers::attention(builder, "cross", cross, normed(builder, "cross_norm", x), other);
            x.branch = layers::mlp(builder, "mlp", options_.mlp, normed(builder, "mlp_norm", x));
        }
        return dropped(builder, "dropout", normed(builder, "norm", x));
    }

    const Config& config_;
    const ModelSizes& sizes_;
    Purpose purpose_;
    std::int64_t vocabulary_;
    layers::TransformerBlockOptions options_;
    std::int64_t width_, heads_, buckets_, far_;
    bool tied_ = true;
    ValueId table_ = no_value, source_segments_ = no_value;
    Model model_;
};

} // namespace

std::int64_t relative_bucket(std::int64_t distance, bool both_directions, std::int64_t buckets, std::int64_t far) {
    std::int64_t first = 0;
    if (both_directions) {
        buckets /= 2;
        if (distance > 0) first = buckets;
        distance = std::abs(distance);
    } else {
        distance = std::max<std::int64_t>(-distance, 0);
    }
    const std::int64_t exact = buckets / 2;
    if (distance < exact) return first + distance;
    // In f32, as T5's own: classes change where its logarithms round.
    const float share = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(far) / static_cast<double>(exact)));
    const auto beyond = static_cast<std::int64_t>(share * static_cast<float>(buckets - exact));
    return first + std::min(exact + beyond, buckets - 1);
}

Model build_t5(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    return T5(config, sizes, purpose).build();
}

} // namespace tessera
