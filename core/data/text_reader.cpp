// SPDX-License-Identifier: Apache-2.0
// Text files, tokenised once. Files are joined in their order, and tokens kept in 16 bits where the vocabulary fits.
// Lines that cannot be tokenised are what data.on_error is about.
#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <algorithm>
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

// The first byte that is none; text.size(): all is UTF-8.
std::size_t end_of_utf8(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        const std::optional<CodePoint> point = read_code_point(text, at);
        if (!point) break;
        at += point->bytes;
    }
    return at;
}

void check_utf8(const NamedText& text) {
    const std::size_t end = end_of_utf8(text.text);
    if (end < text.text.size()) throw DataError(invalid_utf8(text.name, text.text, end));
}

// Files as texts, of which lines may be left out. The texts are its own, or of the files.
class Corpus {
public:
    explicit Corpus(RecordErrors& errors) : errors_(errors) {}

    void open(const std::vector<std::string>& patterns) {
        for (const std::string& path : matching_paths(patterns))
            errors_.attempt("file", [&] {
                const MappedFile& file = *files_.emplace_back(std::make_unique<MappedFile>(path));
                texts_.push_back({file.path(), file.text()});
            });
    }

    // Leaves out the lines that `check(NamedText)` throws DataError for, where errors are skipped and it throws for the
    // whole text; a line's name is FILE:LINE.
    template <class Check> void leave_out_lines(const Check& check) {
        if (!errors_.skips()) return;
        for (NamedText& text : texts_)
            try {
                check(text);
            } catch (const DataError&) {
                std::string& kept = *kept_.emplace_back(std::make_unique<std::string>());
                std::string_view rest = text.text;
                for (std::int64_t number = 1; !rest.empty(); ++number) {
                    const std::string_view line = rest.substr(0, std::min(rest.find('\n'), rest.size() - 1) + 1);
                    rest.remove_prefix(line.size());
                    if (errors_.attempt("line", [&] { check({fmt::format("{}:{}", text.name, number), line}); }))
                        kept += line;
                }
                text.text = kept;
            }
    }

    std::span<const NamedText> texts() const { return texts_; }

private:
    RecordErrors& errors_;
    std::vector<std::unique_ptr<MappedFile>> files_;
    std::vector<std::unique_ptr<std::string>> kept_;
    std::vector<NamedText> texts_;
};

template <class Token> TokenRun join_tokens(std::span<const NamedText> texts, TokenRuns& runs) {
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

TokenRun encode_texts(std::span<const NamedText> texts, TokenRuns& runs) {
    return runs.vocabulary_size <= 65536 ? join_tokens<std::uint16_t>(texts, runs)
                                         : join_tokens<std::uint32_t>(texts, runs);
}

// Leaves out what it cannot be trained on, and says no more of what the reader of the same texts counts.
std::unique_ptr<Tokenizer> train_on(const TokenizerOptions& options, Corpus& corpus) {
    if (!takes_any_bytes(options.kind)) corpus.leave_out_lines(check_utf8);
    return train_tokenizer(options, corpus.texts());
}

} // namespace

void leave_out_broken(std::vector<NamedText>& texts, const DatasetOptions& options) {
    if (!options.skip_errors || takes_any_bytes(options.tokenizer.kind)) return;
    std::erase_if(texts, [](const NamedText& text) { return end_of_utf8(text.text) < text.text.size(); });
}

std::unique_ptr<Tokenizer> tokenizer_of_texts(const TokenizerOptions& options, const std::vector<std::string>& patterns,
                                              bool skip_errors) {
    RecordErrors errors(skip_errors); // counted by who reads them to train on
    Corpus corpus(errors);
    corpus.open(patterns);
    return train_on(options, corpus);
}

TokenRuns read_text(const DatasetOptions& options, RecordErrors& errors) {
    if (options.files.empty()) throw ConfigError("the reader 'text' needs files, none are given");
    Corpus corpus(errors);
    corpus.open(options.files);
    const std::size_t train_files = corpus.texts().size();
    corpus.open(options.validation_files);
    if (train_files == 0) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));

    TokenRuns runs;
    runs.tokenizer =
        options.tokenizer_json.empty() ? train_on(options.tokenizer, corpus) : Tokenizer::load(options.tokenizer_json);
    runs.vocabulary_size = std::max(runs.tokenizer->vocabulary_size(), options.token_vocabulary);
    if (!options.tokenizer_json.empty() && !takes_any_bytes(runs.tokenizer->kind()))
        corpus.leave_out_lines([&](const NamedText& text) { encode(*runs.tokenizer, text); });
    const std::span<const NamedText> texts = corpus.texts();
    runs.train.push_back(encode_texts(texts.first(train_files), runs));
    if (texts.size() > train_files) runs.validation.push_back(encode_texts(texts.subspan(train_files), runs));
    return runs;
}

} // namespace tessera
