// SPDX-License-Identifier: Apache-2.0
// What an evaluation tells beside the loss, by name: counts and sums that are nodes of the graph, summed over all
// micro-batches and ranks like the loss, and numbers that follow from them on the host.
#pragma once

#include "core/config.hpp"
#include "core/model.hpp"

#include <span>
#include <vector>

namespace tessera {

inline constexpr Key<std::vector<std::string>> metrics_evaluate{
    "metrics.evaluate", "",
    "evaluations tell: top_K, confusion_matrix, precision, recall, f1, auc, mean_absolute_error, r2, bits_per_byte"};

// What a loss compares, for metrics of it.
struct MetricPlace {
    std::string prefix;            // of names: "" or "LOSS."
    ValueId outputs;               // logits, (B, …, W), or numbers
    ValueId targets;               // classes, -1: none, or numbers of the outputs' shape
    ValueId number;                // of the targets that count; no_value: of all units
    std::int64_t classes = 0;      // 0: numbers
    std::vector<double> centres{}; // of numbers: SampleForm::target_means
    std::int64_t samples = 0;      // ModelSizes::samples_evaluated
    bool binary = false;           // logits of outcomes, with numbers 1 or 0: `classes` is 0
};

// What is told of windows of a text, by whoever evaluates.
inline constexpr std::string_view bits_per_byte_name = "bits_per_byte";

// ConfigError for an unknown name, and for one that none of the model's losses can tell.
void check_metrics(const Config& config, bool of_classes, bool of_numbers, bool of_text, bool of_outcomes = false);
// Appends what the config asks for and this loss can tell; marks it as accumulated.
void append_metrics(Model& model, const Config& config, const MetricPlace& place);

// Of (V, V) counts, true class by predicted one: what scikit-learn calls macro, over the classes that come; a class
// with nothing in the denominator has 0.
struct ClassScores {
    double precision = 0, recall = 0, f1 = 0;
};
ClassScores class_scores(std::span<const double> confusion, std::int64_t classes);
// The same of outcomes that are each there or not, the mean over them, of (4, K) counts (kernels/classification.hpp);
// `accuracy`: the share of rows that are right.
struct OutcomeScores {
    double accuracy = 0, precision = 0, recall = 0, f1 = 0;
};
OutcomeScores outcome_scores(std::span<const double> counts);

// A score, and whether what it is of was there.
struct Scored {
    double score = 0;
    bool positive = false;
};
// The area under the curve of true over false positives: of all pairs of a positive and a negative the share in which
// the positive has the higher score, equal ones half. Not a number where a kind or a score is none. Sorts them.
double area_under_curve(std::vector<Scored>& scores);
// Of rows as kernels/classification.hpp's place_scores has them. Of two classes by the difference of the logits; of
// more the mean over the classes, each against the rest, by the probability (scikit-learn's multi_class = "ovr");
// classes with no positive or no negative are left out.
double area_of_classes(std::span<const double> rows, std::int64_t classes);
// The mean over the outcomes, likewise.
double area_of_outcomes(std::span<const double> rows, std::int64_t outcomes);
// R^2 of (3, K) sums (kernels/regression.hpp), the mean over the K numbers; of a number that never changes 1 where it
// is hit, else 0.
double coefficient_of_determination(std::span<const double> sums, double samples);

} // namespace tessera
