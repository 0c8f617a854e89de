// SPDX-License-Identifier: Apache-2.0
// What a sample looks like: all that a model has to know of its data.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// One tensor of a sample: {"tokens", (T), i32}, {"image", (H, W, C), f32}.
struct Field {
    std::string name;
    Shape shape;
    DType dtype = DType::f32;
    bool operator==(const Field&) const = default;
};

// Ids with a meaning of their own in texts that are samples each; -1: there is none.
struct TextMarks {
    std::int32_t begin = -1, end = -1, padding = -1;
    std::int64_t vocabulary = 0; // tokens of the first field, with those that are not the tokenizer's own; 0: unknown
};

// The first field is what a model looks at, the last what it is to find. The loss is the mean over units: the tokens of
// a text, else whole samples.
struct SampleForm {
    std::vector<Field> fields;
    std::int64_t classes = 0; // tokens or labels are numbers below; 0: numbers are to be found
    std::int64_t units = 1;   // of a sample
    std::string_view unit = "sample";

    bool leaves_out = false; // targets may be -1, which no loss counts: the mean is over the others

    TextMarks marks{}; // of texts that are no windows of one

    std::vector<double> target_means{}; // of numbers, in the data to train on; empty: not known

    // Of samples in which several things are to be found, by field; empty: the last field alone is, with what `classes`
    // and `target_means` say.
    struct Wanted {
        std::int64_t classes = 0;    // of a label; 0: it is none
        std::vector<double> means{}; // of numbers
        bool operator==(const Wanted&) const = default;
    };
    std::vector<Wanted> wanted{};
    std::int64_t classes_of(std::size_t field) const { return wanted.empty() ? classes : wanted[field].classes; }
    const std::vector<double>& means_of(std::size_t field) const {
        return wanted.empty() ? target_means : wanted[field].means;
    }

    // Where they have some: what each number of the first field stands for, and each label.
    std::vector<std::string> feature_names{}, class_names{};

    // Whether the last field holds the probability of each class, (classes) f32, in place of a label: of mixed samples.
    bool soft_labels = false;

    bool is_text() const { return unit == "token"; }
    bool is_labelled_text() const { return !is_text() && marks.vocabulary > 0; }
};

// Windows of so many tokens: "tokens" (T) and "targets" (T), i32.
inline SampleForm text_form(std::int64_t tokens, std::int64_t vocabulary) {
    return {{{"tokens", {tokens}, DType::i32}, {"targets", {tokens}, DType::i32}}, vocabulary, tokens, "token"};
}

// Texts with a label: "tokens" (T) and "label" (), i32.
SampleForm labelled_form(std::int64_t tokens, std::int64_t classes, const TextMarks& marks);

} // namespace tessera
