// SPDX-License-Identifier: Apache-2.0
// Text files, tokenised once. Files are joined in their order, and tokens kept in 16 bits where the vocabulary fits.
#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

// A tokenizer does not know whether its text is of a file or of a command line.
std::vector<std::int32_t> encode(const Tokenizer& tokenizer, const NamedText& text) {
    try {
        return tokenizer.encode(text.text, text.name);
    } catch (const ConfigError& error) {
        throw DataError(error.what());
    }
}

template <class Token> TokenRun join_tokens(const std::vector<NamedText>& texts, TokenRuns& runs) {
    auto tokens = std::make_shared<std::vector<Token>>();
    for (const NamedText& text : texts) {
        const std::vector<std::int32_t> encoded = encode(*runs.tokenizer, text);
        tokens->insert(tokens->end(), encoded.begin(), encoded.end());
    }
    const std::string name =
        texts.size() == 1 ? texts[0].name : fmt::format("{} and {} more", texts[0].name, texts.size() - 1);
    TokenRun run{std::span<const Token>(*tokens), name};
    runs.memory.push_back(std::move(tokens));
    return run;
}

TokenRun encode_texts(const std::vector<NamedText>& texts, TokenRuns& runs) {
    return runs.vocabulary_size <= 65536 ? join_tokens<std::uint16_t>(texts, runs)
                                         : join_tokens<std::uint32_t>(texts, runs);
}

} // namespace

std::unique_ptr<Tokenizer> tokenizer_of_texts(const TokenizerOptions& options, const std::vector<std::string>& patterns,
                                              bool skip_errors) {
    RecordErrors errors(skip_errors); // counted by who reads them to train on
    std::vector<MappedFile> files;
    for (const std::string& path : matching_paths(patterns))
        errors.attempt("file", [&] { files.emplace_back(path); });
    std::vector<NamedText> texts;
    for (const MappedFile& file : files)
        texts.push_back({file.path(), file.text()});
    return train_tokenizer(options, texts);
}

TokenRuns read_text(const DatasetOptions& options, RecordErrors& errors) {
    if (options.files.empty()) throw ConfigError("the reader 'text' needs files, none are given");
    std::vector<MappedFile> files;
    for (const std::string& path : matching_paths(options.files))
        errors.attempt("file", [&] { files.emplace_back(path); });
    const std::size_t train_files = files.size();
    for (const std::string& path : matching_paths(options.validation_files))
        errors.attempt("file", [&] { files.emplace_back(path); });
    if (train_files == 0) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    std::vector<NamedText> texts;
    for (const MappedFile& file : files)
        texts.push_back({file.path(), file.text()});

    TokenRuns runs;
    runs.tokenizer = options.tokenizer_json.empty() ? train_tokenizer(options.tokenizer, texts)
                                                    : Tokenizer::load(options.tokenizer_json);
    runs.vocabulary_size = std::max(runs.tokenizer->vocabulary_size(), options.token_vocabulary);
    const auto first_validation = texts.begin() + static_cast<std::ptrdiff_t>(train_files);
    runs.train.push_back(encode_texts({texts.begin(), first_validation}, runs));
    if (first_validation != texts.end()) runs.validation.push_back(encode_texts({first_validation, texts.end()}, runs));
    return runs;
}

} // namespace tessera
