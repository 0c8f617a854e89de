// SPDX-License-Identifier: Apache-2.0
// The ids that begin, end and fill up texts that are samples each: the tokenizer's own, or new ones behind its last.
#pragma once

#include "core/data/sample_form.hpp"
#include "core/data/tokenizer.hpp"

namespace tessera {

TextMarks pair_marks(const Tokenizer& tokenizer);  // </s> and <pad>, as T5's
TextMarks class_marks(const Tokenizer& tokenizer); // [CLS], [SEP] and [PAD], as BERT's

} // namespace tessera
