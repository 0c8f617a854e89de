// SPDX-License-Identifier: Apache-2.0
// The list of metrics.
#include "core/evaluation_metrics.hpp"

#include "core/ops/ops.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

constexpr std::int64_t score_bins = 1 << 14; // 1/256 wide
constexpr std::int64_t most_classes = 1024;

// 5 of "top_5"; 0: it is no such name.
std::int64_t k_of(std::string_view name) {
    if (!name.starts_with("top_")) return 0;
    std::int64_t k = 0;
    const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), k);
    return error == std::errc() && end == name.data() + name.size() && k > 0 ? k : 0;
}

bool is_of_numbers(std::string_view name) { return name == "mean_absolute_error" || name == "r2"; }

class MetricsOfLoss {
public:
    MetricsOfLoss(Model& model, const Config& config, const MetricPlace& place)
        : model_(model), config_(config), place_(place) {}

    void add(const std::string& name) {
        if (name == bits_per_byte_name || is_of_numbers(name) != (place_.classes == 0)) return;
        if (place_.classes == 0) return add_of_numbers(name);
        if (const std::int64_t k = k_of(name); k > 0) return add_top(name, k);
        if (name == "auc") return add_auc();
        const std::string wanted = place_.prefix + name;
        const std::int64_t classes = place_.classes;
        if (name == "confusion_matrix") {
            model_.told_tables.push_back({wanted, confusion(), {}});
            return;
        }
        const auto finish = [name, wanted, classes](std::span<const double> counts, double, NamedNumbers& told) {
            const ClassScores scores = class_scores(counts, classes);
            told.emplace_back(wanted, name == "precision" ? scores.precision
                                      : name == "recall"  ? scores.recall
                                                          : scores.f1);
        };
        model_.told_tables.push_back({wanted, confusion(), finish});
    }

private:
    std::string path(std::string_view what) const { return fmt::format("{}metric.{}", place_.prefix, what); }

    ValueId accumulated(ValueId id) {
        model_.graph.accumulate(id);
        return id;
    }

    ValueId confusion() {
        if (place_.classes > most_classes)
            config_.refuse(metrics_evaluate.name, fmt::format("{} classes are too many for a table of them: up to {}",
                                                              place_.classes, most_classes));
        if (confusion_ == no_value)
            confusion_ = accumulated(
                ops::confusion(model_.graph, path("confusion"), place_.outputs, place_.targets, place_.classes));
        return confusion_;
    }

    void add_top(const std::string& name, std::int64_t k) {
        if (k > place_.classes)
            config_.refuse(metrics_evaluate.name, fmt::format("{}: there are {} classes", name, place_.classes));
        const ValueId hits =
            accumulated(ops::top_k_hits(model_.graph, path(name), place_.outputs, place_.targets, place_.classes, k));
        model_.told.push_back({fmt::format("{}{}_accuracy", place_.prefix, name), hits, place_.number});
    }

    void add_auc() {
        if (place_.classes != 2)
            config_.refuse(metrics_evaluate.name,
                           fmt::format("auc: is of two classes, and there are {}", place_.classes));
        const ValueId counts =
            accumulated(ops::score_counts(model_.graph, path("scores"), place_.outputs, place_.targets, score_bins));
        model_.told_tables.push_back(
            {place_.prefix + "auc", counts,
             [name = place_.prefix + "auc"](std::span<const double> sums, double, NamedNumbers& told) {
                 told.emplace_back(name, area_under_curve(sums));
             }});
    }

    // Where nothing is known of the targets: 0.
    ValueId centres() {
        const Graph::PhaseGuard guard(model_.graph, Phase::prepare); // of no sample
        const Shape& shape = model_.graph.value(place_.targets).type.shape;
        const TensorType type{{shape.count(1, shape.rank())}, DType::f32};
        return model_.graph.step_input(
            path("centres"), type, [means = place_.centres](const StepState&, const View& host) {
                for (std::size_t i = 0; i < static_cast<std::size_t>(host.count()); ++i)
                    host.as<float>()[i] = i < means.size() ? static_cast<float>(means[i]) : 0.0f;
            });
    }

    void add_of_numbers(const std::string& name) {
        using Kind = kernels::PointwiseLoss::Kind;
        const auto mean_of = [&](Kind kind, std::string_view what, ValueId outputs) {
            return accumulated(
                ops::pointwise_loss(model_.graph, path(what), {kind}, outputs, place_.targets, no_value));
        };
        if (name == "mean_absolute_error") {
            model_.told.push_back({place_.prefix + name, mean_of(Kind::absolute, "absolute", place_.outputs)});
            return;
        }
        const ValueId sums =
            accumulated(ops::regression_sums(model_.graph, path("sums"), place_.outputs, place_.targets, centres()));
        model_.told_tables.push_back(
            {place_.prefix + name, sums,
             [name = place_.prefix + name](std::span<const double> found, double units, NamedNumbers& told) {
                 told.emplace_back(name, coefficient_of_determination(found, units));
             }});
    }

    Model& model_;
    const Config& config_;
    const MetricPlace& place_;
    ValueId confusion_ = no_value;
};

} // namespace

void check_metrics(const Config& config, bool of_classes, bool of_numbers, bool of_text) {
    static constexpr std::array names = {
        "auc", "bits_per_byte", "confusion_matrix", "f1", "mean_absolute_error", "precision", "recall", "r2", "top_5"};
    const std::vector<std::string> wanted = config.get(metrics_evaluate);
    for (auto name = wanted.begin(); name != wanted.end(); ++name) {
        if (k_of(*name) == 0 && std::ranges::find(names, *name) == names.end())
            config.refuse(metrics_evaluate.name, no_such_name("metric", *name, {names.begin(), names.end()}));
        if (std::find(wanted.begin(), name, *name) != name)
            config.refuse(metrics_evaluate.name, fmt::format("'{}' stands there twice", *name));
        if (*name == bits_per_byte_name) {
            if (of_text) continue;
            config.refuse(metrics_evaluate.name,
                          "'bits_per_byte' judges a model that writes a text on, token by token");
        }
        if (is_of_numbers(*name) ? !of_numbers : !of_classes)
            config.refuse(metrics_evaluate.name, fmt::format("'{}' judges {}, which no loss of the model compares",
                                                             *name, is_of_numbers(*name) ? "numbers" : "classes"));
    }
}

void append_metrics(Model& model, const Config& config, const MetricPlace& place) {
    MetricsOfLoss metrics(model, config, place);
    for (const std::string& name : config.get(metrics_evaluate))
        metrics.add(name);
}

ClassScores class_scores(std::span<const double> confusion, std::int64_t classes) {
    ClassScores mean;
    const auto size = static_cast<std::size_t>(classes);
    const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0; };
    double there = 0; // classes that are there, or that some are taken for
    for (std::size_t c = 0; c < size; ++c) {
        double of_class = 0, taken_for_it = 0;
        for (std::size_t other = 0; other < size; ++other) {
            of_class += confusion[c * size + other];
            taken_for_it += confusion[other * size + c];
        }
        const double right = confusion[c * size + c];
        there += of_class + taken_for_it > 0 ? 1 : 0;
        mean.precision += share(right, taken_for_it);
        mean.recall += share(right, of_class);
        mean.f1 += share(2 * right, of_class + taken_for_it);
    }
    return {share(mean.precision, there), share(mean.recall, there), share(mean.f1, there)};
}

double area_under_curve(std::span<const double> counts) {
    const std::size_t bins = counts.size() / 2;
    double below = 0, area = 0, positives = 0; // negatives in lower bins
    for (std::size_t bin = 0; bin < bins; ++bin) {
        const double negative = counts[bin], positive = counts[bins + bin];
        area += positive * (below + negative / 2);
        below += negative;
        positives += positive;
    }
    if (below == 0 || positives == 0) return std::numeric_limits<double>::quiet_NaN();
    return area / below / positives;
}

double coefficient_of_determination(std::span<const double> sums, double samples) {
    const std::size_t columns = sums.size() / 3;
    double mean = 0;
    for (std::size_t k = 0; k < columns; ++k) {
        const double sum = sums[k], spread = sums[columns + k] - sum * sum / samples, errors = sums[2 * columns + k];
        mean += (spread > 0 ? 1 - errors / spread : errors == 0 ? 1.0 : 0.0) / static_cast<double>(columns);
    }
    return mean;
}

} // namespace tessera
