// SPDX-License-Identifier: Apache-2.0
// The model "BPE" of a tokenizer.json: byte pairs by name, with its many settings.
#pragma once

#include "core/data/huggingface/subwords.hpp"

namespace tessera::huggingface {

std::unique_ptr<Subwords> make_byte_pairs(const JsonValue& model, const Vocabulary& vocabulary); // as make_subwords

} // namespace tessera::huggingface
