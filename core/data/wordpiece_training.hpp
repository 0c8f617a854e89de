// SPDX-License-Identifier: Apache-2.0
// A WordPiece vocabulary from a corpus, as Hugging Face's trainer makes one: characters of words, joined pair by pair.
#pragma once

#include "core/data/tokenizer.hpp"
#include "core/json_value.hpp"

namespace tessera {

// A tokenizer.json like BERT's, without its lower-casing: [PAD] [UNK] [CLS] [SEP] [MASK], the characters in the order
// of their bytes ("##" before those inside a word), then what was joined. Deterministic. Throws ConfigError for a
// vocabulary that the corpus cannot give, and for text that is no UTF-8.
JsonValue train_wordpiece_json(std::int64_t vocabulary_size, std::span<const NamedText> corpus);

} // namespace tessera
