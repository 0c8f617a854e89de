// SPDX-License-Identifier: Apache-2.0
// The list of metrics.
#include "core/evaluation_metrics.hpp"

#include "core/ops/ops.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

constexpr std::int64_t most_scores = 1 << 21; // numbers: they are held as often as a sum of micro-batches has slots
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
        if (place_.binary) return add_of_outcomes(name);
        if (name == bits_per_byte_name || is_of_numbers(name) != (place_.classes == 0)) return;
        if (place_.classes == 0) return add_of_numbers(name);
        if (const std::int64_t k = k_of(name); k > 0) return add_top(name, k);
        if (name == "auc") return add_area(place_.classes);
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

    // The share that is right, which of outcomes as of classes is always told.
    void add_accuracy_of_outcomes() {
        tell_of_outcomes("accuracy", [](const OutcomeScores& scores) { return scores.accuracy; });
    }

private:
    std::string path(std::string_view what) const { return fmt::format("{}metric.{}", place_.prefix, what); }

    ValueId accumulated(ValueId id) {
        model_.graph.accumulate(id);
        return id;
    }

    void add_of_outcomes(const std::string& name) {
        if (name == "auc") return add_area(0);
        if (name == "precision") tell_of_outcomes(name, [](const OutcomeScores& scores) { return scores.precision; });
        if (name == "recall") tell_of_outcomes(name, [](const OutcomeScores& scores) { return scores.recall; });
        if (name == "f1") tell_of_outcomes(name, [](const OutcomeScores& scores) { return scores.f1; });
    }

    void tell_of_outcomes(const std::string& name, double (*number)(const OutcomeScores&)) {
        if (outcomes_ == no_value)
            outcomes_ = accumulated(ops::binary_counts(model_.graph, path("outcomes"), place_.outputs, place_.targets));
        model_.told_tables.push_back(
            {place_.prefix + name, outcomes_,
             [number, name = place_.prefix + name](std::span<const double> counts, double, NamedNumbers& told) {
                 told.emplace_back(name, number(outcome_scores(counts)));
             }});
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

    // Of classes, or of outcomes (0): all scores of the evaluation.
    void add_area(std::int64_t classes) {
        const Shape logits = model_.graph.value(place_.outputs).type.shape;
        const std::int64_t columns = classes > 0 ? classes : logits[-1], each = logits.count(1, logits.rank() - 1);
        const std::int64_t rows = std::max(place_.samples, logits[0]) * each;
        const std::int64_t width = classes > 0 ? columns + 1 : 2 * columns;
        if (rows > most_scores / width)
            config_.refuse(metrics_evaluate.name,
                           fmt::format("auc: keeps {} numbers of each of {} rows that are evaluated, {} in all are too "
                                       "many: up to {}; metrics.evaluate_batches makes them fewer",
                                       width, rows, rows * width, most_scores));
        const ValueId first = model_.graph.step_input(
            path("first_row"), {{}, DType::i32}, [each](const StepState& state, const View& host) {
                *host.as<std::int32_t>() = static_cast<std::int32_t>(state.first_sample * each);
            });
        const ValueId scores = accumulated(
            ops::place_scores(model_.graph, path("scores"), place_.outputs, place_.targets, first, rows, columns));
        const auto finish = [name = place_.prefix + "auc", classes, columns](std::span<const double> found, double,
                                                                             NamedNumbers& told) {
            told.emplace_back(name, classes > 0 ? area_of_classes(found, classes) : area_of_outcomes(found, columns));
        };
        model_.told_tables.push_back({place_.prefix + "auc", scores, finish, true});
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
    ValueId confusion_ = no_value, outcomes_ = no_value;
};

bool is_of_outcomes(std::string_view name) {
    return name == "auc" || name == "f1" || name == "precision" || name == "recall";
}

} // namespace

void check_metrics(const Config& config, bool of_classes, bool of_numbers, bool of_text, bool of_outcomes) {
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
        if (of_outcomes && is_of_outcomes(*name)) continue;
        if (is_of_numbers(*name) ? !of_numbers : !of_classes)
            config.refuse(metrics_evaluate.name, fmt::format("'{}' judges {}, which no loss of the model compares",
                                                             *name, is_of_numbers(*name) ? "numbers" : "classes"));
    }
}

void append_metrics(Model& model, const Config& config, const MetricPlace& place) {
    MetricsOfLoss metrics(model, config, place);
    if (place.binary) metrics.add_accuracy_of_outcomes();
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

OutcomeScores outcome_scores(std::span<const double> counts) {
    const std::size_t outcomes = counts.size() / 4;
    const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0; };
    OutcomeScores mean;
    double right = 0, all = 0;
    for (std::size_t k = 0; k < outcomes; ++k) {
        const double none = counts[k], wrong = counts[outcomes + k], missed = counts[2 * outcomes + k],
                     hit = counts[3 * outcomes + k], of_all = 1.0 / static_cast<double>(outcomes);
        right += none + hit;
        all += none + wrong + missed + hit;
        mean.precision += of_all * share(hit, hit + wrong);
        mean.recall += of_all * share(hit, hit + missed);
        mean.f1 += of_all * share(2 * hit, 2 * hit + wrong + missed);
    }
    mean.accuracy = share(right, all);
    return mean;
}

double area_under_curve(std::vector<Scored>& scores) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    if (std::ranges::any_of(scores, [](const Scored& one) { return std::isnan(one.score); })) return none;
    std::ranges::sort(scores, {}, &Scored::score);
    double below = 0, area = 0, positives = 0; // negatives with lower scores
    for (std::size_t i = 0; i < scores.size();) {
        double same[2] = {0, 0};
        for (const double score = scores[i].score; i < scores.size() && scores[i].score == score; ++i)
            same[scores[i].positive ? 1 : 0] += 1;
        area += same[1] * (below + same[0] / 2);
        below += same[0];
        positives += same[1];
    }
    return below == 0 || positives == 0 ? none : area / below / positives;
}

namespace {

// Over those that are a number; none: no number.
class MeanOfAreas {
public:
    void add(std::vector<Scored>& scores) {
        const double area = area_under_curve(scores);
        if (std::isnan(area)) return;
        sum_ += area;
        ++count_;
    }
    double mean() const { return count_ > 0 ? sum_ / count_ : std::numeric_limits<double>::quiet_NaN(); }

private:
    double sum_ = 0, count_ = 0;
};

// The logarithm of the probability of a class, which orders as it does.
double log_probability(std::span<const double> logits, std::size_t of) {
    const double largest = *std::ranges::max_element(logits);
    double sum = 0;
    for (const double logit : logits)
        sum += std::exp(logit - largest);
    return logits[of] - largest - std::log(sum);
}

} // namespace

double area_of_classes(std::span<const double> rows, std::int64_t classes) {
    const auto columns = static_cast<std::size_t>(classes);
    MeanOfAreas areas;
    for (std::size_t of = classes == 2 ? 1 : 0; of < columns; ++of) {
        std::vector<Scored> scores;
        for (std::size_t at = 0; at < rows.size(); at += columns + 1) {
            const std::span<const double> logits = rows.subspan(at, columns);
            const double target = rows[at + columns] - 1;
            if (target < 0 || target >= static_cast<double>(classes)) continue;
            scores.push_back({classes == 2 ? logits[1] - logits[0] : log_probability(logits, of),
                              target == static_cast<double>(of)});
        }
        areas.add(scores);
    }
    return areas.mean();
}

double area_of_outcomes(std::span<const double> rows, std::int64_t outcomes) {
    const auto columns = static_cast<std::size_t>(outcomes);
    MeanOfAreas areas;
    for (std::size_t of = 0; of < columns; ++of) {
        std::vector<Scored> scores;
        for (std::size_t at = 0; at < rows.size(); at += 2 * columns)
            scores.push_back({rows[at + of], rows[at + columns + of] > 0.5});
        areas.add(scores);
    }
    return areas.mean();
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
