// SPDX-License-Identifier: Apache-2.0
// The .bin files of llm.c: 256 int32 of header (magic, version, count, zeros), then the tokens, little-endian.
#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>

namespace tessera {
namespace {

struct TokenFormat {
    std::int32_t magic;
    std::int32_t version;
    std::size_t token_bytes;
    std::int64_t vocabulary_size;
    std::string_view tokenizer;
};

constexpr std::array<TokenFormat, 2> formats = {{
    {20240520, 1, 2, 50257, "GPT-2"},
    {20240801, 7, 4, 128256, "Llama 3"},
}};

constexpr std::size_t header_bytes = 256 * sizeof(std::int32_t);

// Checks the header against what is known and against the file's size.
const TokenFormat& format_of(const MappedFile& file) {
    const std::span<const std::byte> bytes = file.bytes();
    if (bytes.size() < header_bytes)
        throw DataError(fmt::format("{}: not a token file ({} bytes, the header alone has {})", file.path(),
                                    bytes.size(), header_bytes));
    std::array<std::int32_t, 3> header{}; // magic, version, tokens
    std::memcpy(header.data(), bytes.data(), sizeof header);
    for (const TokenFormat& format : formats) {
        if (format.magic != header[0]) continue;
        if (format.version != header[1])
            throw DataError(
                fmt::format("{}: version {} of this format, expected {}", file.path(), header[1], format.version));
        const std::size_t held = bytes.size() - header_bytes;
        if (header[2] < 1 || static_cast<std::size_t>(header[2]) * format.token_bytes != held)
            throw DataError(fmt::format("{}: the header says {} tokens of {} bytes, but {} bytes follow it ({})",
                                        file.path(), header[2], format.token_bytes, held,
                                        held / format.token_bytes < static_cast<std::size_t>(std::max(header[2], 0))
                                            ? "truncated"
                                            : "damaged"));
        return format;
    }
    throw DataError(fmt::format("{}: not a token file (magic {}, expected {} or {})", file.path(), header[0],
                                formats[0].magic, formats[1].magic));
}

template <class Token> std::span<const Token> tokens_of(const MappedFile& file) {
    const std::span<const std::byte> data = file.bytes().subspan(header_bytes); // aligned: the mapping is, by pages
    return {reinterpret_cast<const Token*>(data.data()), data.size() / sizeof(Token)};
}

// All files of one run share a tokenizer: the first one's format sets it.
std::vector<TokenRun> open_runs(const std::vector<std::string>& patterns, std::int64_t sequence_length,
                                const TokenFormat*& format, TokenRuns& owner, RecordErrors& errors) {
    std::vector<TokenRun> runs;
    for (const std::string& path : matching_paths(patterns))
        errors.attempt("file", [&] {
            auto file = std::make_shared<const MappedFile>(path);
            const TokenFormat& own = format_of(*file);
            if (format == nullptr) format = &own;
            if (format != &own)
                throw DataError(fmt::format("{}: holds {} tokens, the files before it {} tokens", path, own.tokenizer,
                                            format->tokenizer));
            TokenRun run{tokens_of<std::uint16_t>(*file), path};
            if (own.token_bytes == 4) run.tokens = tokens_of<std::uint32_t>(*file);
            if (run.count() <= sequence_length)
                throw DataError(fmt::format("{} has {} tokens, a window of {} needs {}", path, run.count(),
                                            sequence_length, sequence_length + 1));
            runs.push_back(std::move(run));
            owner.memory.push_back(std::move(file));
        });
    return runs;
}

} // namespace

TokenRuns read_token_files(const DatasetOptions& options, RecordErrors& errors) {
    if (options.files.empty()) throw ConfigError("the reader 'tokens' needs files, none are given");
    if (options.token_vocabulary < 0)
        throw ConfigError(
            fmt::format("token_vocabulary is {}, expected 1 or more (0: that of the files)", options.token_vocabulary));
    TokenRuns runs;
    const TokenFormat* format = nullptr;
    runs.train = open_runs(options.files, options.sequence_length, format, runs, errors);
    runs.validation = open_runs(options.validation_files, options.sequence_length, format, runs, errors);
    if (format == nullptr) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    if (!options.tokenizer_json.empty()) runs.tokenizer = Tokenizer::load(options.tokenizer_json);
    if (runs.tokenizer && options.token_vocabulary != 0 &&
        options.token_vocabulary != runs.tokenizer->vocabulary_size())
        throw ConfigError(fmt::format("token_vocabulary is {}, but the tokenizer has {} tokens",
                                      options.token_vocabulary, runs.tokenizer->vocabulary_size()));
    runs.vocabulary_size = runs.tokenizer                 ? runs.tokenizer->vocabulary_size()
                           : options.token_vocabulary > 0 ? options.token_vocabulary
                                                          : format->vocabulary_size;
    return runs;
}

} // namespace tessera
