// SPDX-License-Identifier: Apache-2.0
// What an evaluation tells beside the loss, by name: counts and sums that are nodes of the graph, summed over all
// micro-batches and ranks like the loss, and numbers that follow from them on the host.
#pragma once

#include "core/config.hpp"
#include "core/model.hpp"

namespace tessera {

inline constexpr Key<std::vector<std::string>> metrics_evaluate{
    "metrics.evaluate", "",
    "evaluations tell: top_K, confusion_matrix, precision, recall, f1, auc (to 1/256), mean_absolute_error, r2, "
    "bits_per_byte"};

// What a loss compares, for metrics of it.
struct MetricPlace {
    std::string prefix;            // of names: "" or "LOSS."
    ValueId outputs;               // logits, (…, W), or numbers
    ValueId targets;               // classes, -1: none, or numbers of the outputs' shape
    ValueId number;                // of the targets that count; no_value: of all units
    std::int64_t classes = 0;      // 0: numbers
    std::vector<double> centres{}; // of numbers: SampleForm::target_means
};

// What is told of windows of a text, by whoever evaluates.
inline constexpr std::string_view bits_per_byte_name = "bits_per_byte";

// ConfigError for an unknown name, and for one that none of the model's losses can tell.
void check_metrics(const Config& config, bool of_classes, bool of_numbers, bool of_text);
// Appends what the config asks for and this loss can tell; marks it as accumulated.
void append_metrics(Model& model, const Config& config, const MetricPlace& place);

// Of (V, V) counts, true class by predicted one: what scikit-learn calls macro, over the classes that come; a class
// with nothing in the denominator has 0.
struct ClassScores {
    double precision = 0, recall = 0, f1 = 0;
};
ClassScores class_scores(std::span<const double> confusion, std::int64_t classes);
// The area under the curve of true over false positives, of (2, B) counts of scores; those in a bin are ties. Not a
// number where a class is missing.
double area_under_curve(std::span<const double> counts);
// R^2 of (3, K) sums (kernels/regression.hpp), the mean over the K numbers; of a number that never changes 1 where it
// is hit, else 0.
double coefficient_of_determination(std::span<const double> sums, double samples);

} // namespace tessera
