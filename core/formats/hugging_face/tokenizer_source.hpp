// SPDX-License-Identifier: Apache-2.0
// Where a config's tokenizer lies, when it is one of others: said, or beside the weights that a run starts from.
#pragma once

#include "core/config.hpp"

#include <cstdint>
#include <string>

namespace tessera {

struct TokenizerSource {
    std::string path{}; // for Tokenizer::open; empty: none is said, one is trained
    std::int64_t rows =
        0; // of the token table where they are more than the tokens, as in many a folder; 0: they are not
};

// data.tokenizer_file; or data.tokenizer, where it is the path of a file or folder. data.vocab_size is what a tokenizer
// is trained for where data.tokenizer says one of that kind; otherwise it is that of the table.
TokenizerSource tokenizer_source(const Config& config);

// Where a config that reads text says neither, the tokenizer is that of the folder of Hugging Face's in
// model.init_from, if it holds one, and the vocabulary that of its weights.
void settle_tokenizer(Config& config);

// Whether one of the files is there that Tokenizer::open looks for.
bool holds_tokenizer(const std::string& folder);

} // namespace tessera
