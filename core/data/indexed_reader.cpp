// SPDX-License-Identifier: Apache-2.0
// The reader 'megatron': windows over the tokens of indexed data sets. Windows run across documents, as Megatron's do,
// but not across files.
#include "core/data/data_error.hpp"
#include "core/data/indexed_tokens.hpp"
#include "core/data/readers.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

std::vector<TokenRun> open_runs(const std::vector<std::string>& patterns, TokenRuns& owner, RecordErrors& errors) {
    std::vector<TokenRun> runs;
    for (const std::string& path : matching_paths(patterns))
        errors.attempt("file", [&] {
            auto file = std::make_shared<const IndexedTokens>(path);
            const std::span<const std::byte> bytes = file->bytes(); // aligned: a mapping is, by pages
            TokenRun run{std::span(reinterpret_cast<const std::uint16_t*>(bytes.data()), bytes.size() / 2),
                         file->bin_path()};
            if (file->token_bytes() == 4)
                run.tokens = std::span(reinterpret_cast<const std::uint32_t*>(bytes.data()), bytes.size() / 4);
            runs.push_back(std::move(run));
            owner.memory.push_back(std::move(file));
        });
    return runs;
}

} // namespace

TokenRuns read_indexed_tokens(const DatasetOptions& options, RecordErrors& errors) {
    if (options.files.empty()) throw ConfigError("the reader 'megatron' needs files, none are given");
    TokenRuns runs;
    runs.train = open_runs(options.files, runs, errors);
    runs.validation = open_runs(options.validation_files, runs, errors);
    if (!options.tokenizer_json.empty()) runs.tokenizer = Tokenizer::load(options.tokenizer_json);
    runs.vocabulary_size = runs.tokenizer ? runs.tokenizer->vocabulary_size() : options.token_vocabulary;
    if (runs.vocabulary_size < 1)
        throw ConfigError(
            "the files of the reader 'megatron' do not say how many tokens there are: say data.vocab_size, or "
            "data.tokenizer_file");
    return runs;
}

} // namespace tessera
