// SPDX-License-Identifier: Apache-2.0
// Names become inputs, neighbouring products pairs, and then each layer builds itself.
#include "core/layered_model.hpp"

#include "core/evaluation_metrics.hpp"
#include "core/layers/carried_states.hpp"
#include "core/layers/catalog.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <optional>
#include <tuple>

namespace tessera {
namespace {

using layers::LayerKind;
using layers::LayerValue;
using layers::Sharing;

struct Layer {
    ConfigItem item;
    const layers::LayerType* type;
    std::string name;
    layers::BuildLayer build;
    std::vector<std::size_t> inputs{}; // places: fields first, then layers
    std::vector<std::size_t> users{};  // layers, by their number
    Sharing sharing = Sharing::whole;
    ValueId targets = no_value;       // of a loss: those that count, -1 for the others
    ValueId class_weights = no_value; // of a loss that has some
    bool leaves_out = false;          // of a loss: some targets do not count

    std::int64_t count() const { // of numbered layers
        return type->layers != nullptr ? type->layers(item) : type->kind == LayerKind::product ? 1 : 0;
    }
};

class LayeredModel {
public:
    LayeredModel(const Config& config, const ModelSizes& sizes, Purpose purpose)
        : config_(config), sizes_(sizes), purpose_(purpose), fields_(sizes.sample.fields.size()),
          carried_(model_.graph, purpose, sizes.streams, sizes.steps_per_epoch) {
        for (const Field& field : sizes.sample.fields)
            names_.push_back(field.name);
        for (const ConfigItem& item : config.items("model.layers"))
            add(item);
        check_use();
        find_pairs();
    }

    Model build() {
        declare_inputs(model_, sizes_, purpose_);
        if (purpose_ == Purpose::evaluate)
            check_metrics(config_, has_loss(&layers::LayerType::has_classes), has_loss(&layers::LayerType::has_numbers),
                          sizes_.sample.is_text(), has_loss(&layers::LayerType::is_binary));
        Builder builder(model_.graph, sizes_.precision, purpose_ == Purpose::train);
        builder.adapt(lora_options(config_));
        for (const ValueId input : model_.inputs)
            values_.push_back({input});
        values_.resize(fields_ + layers_.size());
        int number = -1;
        if (purpose_ == Purpose::generate) check_generates();
        for (const bool losses : {false, true}) // last, so that all parameters come before what is prepared for losses
            for (std::size_t i = 0; i < layers_.size(); ++i) {
                Layer& layer = layers_[i];
                const bool is_loss = layer.type->kind == LayerKind::loss;
                if (is_loss != losses) continue;
                if (is_loss && purpose_ == Purpose::generate) {
                    model_.logits = values_[layer.inputs[0]].id;
                    model_.graph.keep(model_.logits);
                    continue;
                }
                const int first = number + 1;
                number += static_cast<int>(layer.count());
                const int at = layer.count() > 0 ? first : std::max(number, 0);
                const Builder::Scope scope(builder, layer.name, is_loss ? -1 : at);
                if (is_loss) layer.targets = targets_of(layer);
                values_[fields_ + i] = build(layer, builder, at);
                if (is_loss) take_loss(layer, values_[fields_ + i].id, builder);
            }
        model_.running = builder.running();
        model_.carried = carried_.left();
        if (purpose_ == Purpose::train)
            for (std::size_t i = 0; i + 1 < model_.losses.size(); ++i)
                model_.losses_beside.push_back({model_.losses[i].value, model_.losses[i].value}); // it has its scale
        return std::move(model_);
    }

private:
    bool has_loss(bool layers::LayerType::*what) const {
        return std::ranges::any_of(layers_, [&](const Layer& layer) { return layer.type->*what; });
    }

    bool is_loss(std::size_t place) const {
        return place >= fields_ && layers_[place - fields_].type->kind == LayerKind::loss;
    }

    void add(const ConfigItem& item) {
        const layers::LayerType& type = layers::type_of(item);
        std::string name = item.get(layer_name);
        if (name.empty()) name = fmt::format("{}_{}", type.name, layers_.size() + 1);
        if (std::ranges::find(names_, name) != names_.end())
            item.refuse(layer_name.name, fmt::format("another layer or field of the data is named '{}'", name));
        const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
        if (!std::ranges::all_of(name, is_plain))
            item.refuse(layer_name.name, "expected letters, digits and underscores");
        Layer layer{item, &type, name, type.read(item)};
        find_inputs(layer);
        for (const std::size_t place : layer.inputs)
            if (place >= fields_) layers_[place - fields_].users.push_back(layers_.size());
        names_.push_back(name);
        layers_.push_back(std::move(layer));
    }

    // The layer before, but for losses; at first what the data have first. A loss compares it with what they have last.
    void find_inputs(Layer& layer) const {
        for (const std::string& name : layer.item.get(layer_inputs))
            layer.inputs.push_back(place_named(name, layer.item));
        const bool of_loss = layer.type->kind == LayerKind::loss;
        if (layer.inputs.empty()) {
            std::size_t before = names_.size();
            while (before > fields_ && is_loss(before - 1))
                --before;
            layer.inputs.push_back(before > fields_ ? before - 1 : 0);
        }
        if (of_loss && layer.inputs.size() == 1) layer.inputs.push_back(fields_ - 1);
        if (layer.inputs.size() < layer.type->fewest_inputs || layer.inputs.size() > layer.type->most_inputs)
            layer.item.refuse(layer_inputs.name,
                              fmt::format("{} inputs, a layer of type '{}' takes {}", layer.inputs.size(),
                                          layer.type->name,
                                          layer.type->fewest_inputs == layer.type->most_inputs
                                              ? fmt::format("{}", layer.type->fewest_inputs)
                                              : fmt::format("{} or more", layer.type->fewest_inputs)));
        for (const std::size_t place : layer.inputs)
            if (is_loss(place))
                layer.item.refuse(layer_inputs.name,
                                  fmt::format("'{}' is a loss, from which nothing follows", names_[place]));
    }

    std::size_t place_named(const std::string& name, const ConfigItem& item) const {
        const auto found = std::ranges::find(names_, name);
        if (found != names_.end()) return static_cast<std::size_t>(found - names_.begin());
        const auto all = config_.items("model.layers");
        if (std::ranges::any_of(all, [&](const ConfigItem& other) { return other.get(layer_name) == name; }))
            item.refuse(layer_inputs.name,
                        fmt::format("'{}' is this layer or one further down: inputs are layers above, "
                                    "so that none depends on itself",
                                    name));
        item.refuse(layer_inputs.name,
                    no_such_name("layer or field of the data", name, {names_.begin(), names_.end()}));
    }

    void check_use() const {
        if (layers_.empty()) config_.refuse(model_type.name, "wants its layers, each in a table [[model.layers]]");
        bool learns = false;
        for (const Layer& layer : layers_) {
            learns = learns || layer.type->kind == LayerKind::loss;
            if (layer.users.empty() && layer.type->kind != LayerKind::loss)
                layer.item.refuse(fmt::format("nothing uses the layer '{}'", layer.name));
        }
        if (!learns)
            layers_.back().item.refuse("the layers end without a loss: add one of type cross_entropy or "
                                       "mean_squared_error");
    }

    // Text is written by what the one loss compares with the next tokens.
    void check_generates() const {
        std::size_t losses = 0;
        const Layer* last = nullptr;
        for (const Layer& layer : layers_)
            if (layer.type->kind == LayerKind::loss) {
                ++losses;
                last = &layer;
            }
        if (!sizes_.sample.is_text() || losses != 1 || !last->type->has_classes)
            config_.refuse(model_type.name,
                           "writes no text: generate wants a model whose one loss is the cross entropy "
                           "of the next tokens");
    }

    bool can_pair(const Layer& layer) const {
        return layer.type->kind == LayerKind::product && layer.sharing == Sharing::whole &&
               (layer.type->can_pair == nullptr || layer.type->can_pair(layer.item));
    }

    // Each product with the next, where nothing else uses what lies between.
    void find_pairs() {
        for (Layer& first : layers_) {
            if (!can_pair(first)) continue;
            Layer* last = &first;
            while (last->users.size() == 1) {
                Layer& next = layers_[last->users[0]];
                if (can_pair(next)) {
                    first.sharing = Sharing::first;
                    next.sharing = Sharing::second;
                    break;
                }
                if (next.type->kind != LayerKind::elementwise) break;
                last = &next;
            }
        }
    }

    ValueId class_weights(const std::string& layer, const std::vector<double>& weights) {
        const Graph::PhaseGuard guard(model_.graph, Phase::prepare); // they are of no sample
        const TensorType type{{static_cast<std::int64_t>(weights.size())}, DType::f32};
        return model_.graph.step_input(layer + ".class_weights", type, [weights](const StepState&, const View& host) {
            std::ranges::transform(weights, host.as<float>(), [](double weight) { return static_cast<float>(weight); });
        });
    }

    // What a loss compares with, without what it leaves out. The gradient is divided by what counts once a step, so
    // that all losses must count the same.
    ValueId targets_of(Layer& layer) {
        const std::int64_t left_out = layer.type->has_classes ? layer.item.get(layer_ignore_index) : -1;
        const std::size_t field = layer.inputs[1];
        if (sizes_.sample.soft_labels && (left_out >= 0 || !layer.item.get(layer_class_weights).empty()))
            layer.item.refuse("ignore_index and class_weights are of labels, which data.mixup makes probabilities of");
        const ValueId targets = targets_without(model_, layer.name + ".targets", values_[field].id, left_out);
        const std::vector<double> weights =
            layer.type->has_classes ? layer.item.get(layer_class_weights) : std::vector<double>();
        if (!weights.empty()) layer.class_weights = class_weights(layer.name, weights);
        layer.leaves_out = left_out >= 0 || (sizes_.sample.leaves_out && field + 1 == fields_);
        const bool counts = layer.leaves_out || !weights.empty();
        const Counting counting{counts, counts ? field : 0, counts ? left_out : -1, weights};
        if (!counting_) {
            counting_ = counting;
            if (counts) count_targets(model_, targets, layer.class_weights);
        } else if (*counting_ != counting) {
            layer.item.refuse(fmt::format("the loss '{}' leaves out or weighs other targets than the loss before: "
                                          "the mean over those that count is one for all losses",
                                          layer.name));
        }
        return targets;
    }

    // Of what a loss compares with; for other layers what the data have last.
    std::int64_t classes_of(const Layer& layer) const {
        const bool of_loss = layer.type->kind == LayerKind::loss;
        return of_loss && layer.inputs[1] < fields_ ? sizes_.sample.classes_of(layer.inputs[1]) : sizes_.sample.classes;
    }

    LayerValue build(const Layer& layer, Builder& builder, int number) {
        layers::LayerPlace place{builder, {}, classes_of(layer), number, layer.sharing, no_value, no_value, carried_};
        for (const std::size_t input : layer.inputs)
            place.inputs.push_back(values_[input]);
        const bool of_loss = layer.type->kind == LayerKind::loss;
        for (std::size_t i = 0; i < layer.inputs.size(); ++i) // what is compared stays as it is
            if (layer.inputs[i] < fields_ && !(of_loss && i == 1))
                place.inputs[i].id = in_use(layer.inputs[i], builder);
        if (of_loss) place.inputs[1].id = layer.targets;
        place.soft_labels = of_loss && sizes_.sample.soft_labels && layer.inputs[1] + 1 == fields_;
        place.class_weights = layer.class_weights;
        if (of_loss && purpose_ == Purpose::train) {
            const double weight = layer.item.get(layer_weight);
            place.scale = gradient_scale(model_, config_, sizes_,
                                         weight == 1 ? "gradient_scale" : layer.name + ".gradient_scale", weight);
        }
        try {
            return layer.build(place);
        } catch (const ConfigError& error) {
            std::vector<std::string> above;
            for (const std::size_t input : layer.inputs)
                above.push_back(fmt::format("'{}' {}", names_[input], layers::text_of(model_.graph, values_[input])));
            layer.item.refuse(fmt::format("layer '{}' of type '{}' does not fit {}: {}", layer.name, layer.type->name,
                                          fmt::join(above, " and "), error.what()));
        }
    }

    // A field as layers compute with it.
    ValueId in_use(std::size_t field, Builder& builder) {
        const ValueId input = model_.inputs[field];
        if (model_.graph.value(input).type.dtype != DType::f32 || builder.compute() == DType::f32) return input;
        if (casts_.size() <= field) casts_.resize(field + 1, no_value);
        if (casts_[field] == no_value)
            casts_[field] = ops::cast(model_.graph, names_[field] + ".in_use", input, builder.compute());
        return casts_[field];
    }

    void take_loss(const Layer& layer, ValueId loss, Builder& builder) {
        model_.losses.push_back({loss, layer.item.get(layer_weight)});
        std::size_t losses = 0, with_classes = 0;
        for (const Layer& other : layers_) {
            losses += other.type->kind == LayerKind::loss ? 1 : 0;
            with_classes += other.type->has_classes ? 1 : 0;
        }
        const auto tell = [&](const std::string& what, ValueId value, ValueId by) {
            const bool alone = what == "accuracy" && with_classes == 1;
            model_.told.push_back({alone ? what : fmt::format("{}.{}", layer.name, what), value, by});
        };
        const std::string prefix = losses > 1 ? layer.name + "." : "";
        if (losses > 1) tell("loss", loss, model_.counted);
        if (purpose_ != Purpose::train || losses > 1) model_.graph.accumulate(loss);
        if (purpose_ == Purpose::evaluate && layer.type->has_classes) {
            const ValueId logits = layers::as_seen(builder, values_[layer.inputs[0]]);
            const ValueId hits = ops::accuracy(model_.graph, builder.path("accuracy"), logits, layer.targets);
            model_.graph.accumulate(hits);
            const ValueId number = number_of_targets(layer);
            tell("accuracy", hits, number);
            append_metrics(model_, config_,
                           {prefix, logits, layer.targets, number, classes_of(layer), {}, sizes_.samples_evaluated});
        } else if (purpose_ == Purpose::evaluate && layer.type->has_numbers) {
            const ValueId outputs = layers::as_seen(builder, values_[layer.inputs[0]]);
            const std::size_t field = layer.inputs[1];
            append_metrics(model_, config_,
                           {prefix, outputs, layer.targets, no_value, 0,
                            field < fields_ ? sizes_.sample.means_of(field) : std::vector<double>()});
        } else if (purpose_ == Purpose::evaluate && layer.type->is_binary) {
            const ValueId logits = layers::as_seen(builder, values_[layer.inputs[0]]);
            append_metrics(model_, config_,
                           {prefix, logits, layer.targets, no_value, 0, {}, sizes_.samples_evaluated, true});
        }
    }

    // How many there are, whatever they weigh; no_value: as many as units.
    ValueId number_of_targets(const Layer& layer) {
        if (layer.class_weights == no_value || !layer.leaves_out) return layer.leaves_out ? model_.counted : no_value;
        const ValueId number = ops::counted_targets(model_.graph, layer.name + ".targets_counted", layer.targets);
        model_.graph.accumulate(number);
        return number;
    }

    const Config& config_;
    const ModelSizes& sizes_;
    Purpose purpose_;
    std::size_t fields_;
    std::vector<std::string> names_; // of fields, then of layers
    std::vector<Layer> layers_;
    Model model_;
    layers::CarriedStates carried_;
    std::vector<LayerValue> values_; // of fields, then of layers
    std::vector<ValueId> casts_;     // of fields
    // What the losses count: whether not all alike; then the place of their targets, which are left out, and weights.
    using Counting = std::tuple<bool, std::size_t, std::int64_t, std::vector<double>>;
    std::optional<Counting> counting_;
};

} // namespace

bool is_recurrent(const Config& config) {
    if (config.get(model_type) != "layers") return false;
    const std::vector<ConfigItem> items = config.items("model.layers");
    return std::ranges::any_of(items, [](const ConfigItem& item) { return layers::type_of(item).is_recurrent; });
}

Model build_layered_model(const Config& config, const ModelSizes& sizes, Purpose purpose) {
    return LayeredModel(config, sizes, purpose).build();
}

} // namespace tessera
