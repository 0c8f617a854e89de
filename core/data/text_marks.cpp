// SPDX-License-Identifier: Apache-2.0
// Marks by their usual names.
#include "core/data/text_marks.hpp"

#include <vector>

namespace tessera {
namespace {

std::int32_t own_or_new(const Tokenizer& tokenizer, const std::vector<std::string_view>& names,
                        std::int64_t& vocabulary) {
    for (const std::string_view name : names)
        if (const auto id = tokenizer.id_of(name)) return *id;
    return static_cast<std::int32_t>(vocabulary++);
}

} // namespace

TextMarks pair_marks(const Tokenizer& tokenizer) {
    TextMarks marks;
    marks.vocabulary = tokenizer.vocabulary_size();
    marks.padding = own_or_new(tokenizer, {"<pad>", "[PAD]"}, marks.vocabulary);
    marks.end = own_or_new(tokenizer, {"</s>", "[SEP]", "<|endoftext|>"}, marks.vocabulary);
    return marks;
}

TextMarks class_marks(const Tokenizer& tokenizer) {
    TextMarks marks;
    marks.vocabulary = tokenizer.vocabulary_size();
    marks.padding = own_or_new(tokenizer, {"[PAD]", "<pad>"}, marks.vocabulary);
    marks.begin = own_or_new(tokenizer, {"[CLS]", "<s>"}, marks.vocabulary);
    marks.end = own_or_new(tokenizer, {"[SEP]", "</s>"}, marks.vocabulary);
    return marks;
}

} // namespace tessera
