// SPDX-License-Identifier: Apache-2.0
// A corpus of text cleaned and tokenised once, by all ranks, into a folder whose bytes do not depend on their number:
//   tokens.bin, tokens.idx    Megatron's (indexed_tokens.hpp), a document for each record that was kept
//   tokenizer.json            for data.tokenizer_file
//   manifest.json             counts, and the hashes of both files; written last
#pragma once

#include "core/data/cleaning.hpp"
#include "core/data/tokenizer.hpp"
#include "core/data/workers.hpp"

namespace tessera {

struct PrepareOptions {
    std::vector<std::string> files{}; // paths and patterns
    std::string folder{};             // to make; it must not exist
    std::string records =
        "file"; // file, line, paragraph (blank lines between), jsonl ("text" of an object on each line)
    CleaningOptions cleaning{};
    TokenizerOptions tokenizer{.kind = "byte"}; // trained on what was kept; or
    std::string tokenizer_file{};
    std::string end_token{}; // its name; empty: that of the tokenizer, if it has one
};

struct Prepared {
    std::array<std::int64_t, verdict_names.size()> records{}; // by Verdict
    std::int64_t tokens = 0;
    std::int64_t vocabulary = 0;
};

// Each rank looks at and tokenises its share of the records, and holds that share's tokens in memory. Throws
// ConfigError for options, DataError for files, or when no record is left.
Prepared prepare_corpus(const PrepareOptions& options, const Workers& workers);

// A folder that prepare_corpus made.
struct PreparedFolder {
    std::string text;   // what it holds, a line each
    std::string sample; // the beginning of the first document, decoded
};
PreparedFolder inspect_prepared(const std::string& folder);
// Reads everything: hashes, the index, every token. Throws DataError for the first thing that is not right. Returns the
// number of tokens.
std::int64_t check_prepared(const std::string& folder);

} // namespace tessera
