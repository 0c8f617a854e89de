// SPDX-License-Identifier: Apache-2.0
// A SentencePiece model (Kudo and Richardson 2018), read and used by its own library.
#pragma once

#include "core/data/tokenizer.hpp"

namespace tessera {

// The bytes of a tokenizer.model or spiece.model. Throws ConfigError where the library cannot read them.
std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view model);
// The same from what its save() wrote: {"kind":"sentencepiece","model":"BASE64"}.
std::unique_ptr<Tokenizer> load_saved_sentencepiece(std::string_view json);
// The bytes of its model. Throws likewise.
std::string saved_sentencepiece_model(std::string_view json);

} // namespace tessera
