// SPDX-License-Identifier: Apache-2.0
// Tokenizer::open: which kind of file a path is, and what lies beside it.
#include "core/data/data_error.hpp"
#include "core/data/huggingface/documents.hpp"
#include "core/data/huggingface/tokenizer.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/sentencepiece_tokenizer.hpp"

#include <array>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t file_limit = std::size_t{128} << 20;

std::vector<std::string> lines_of(std::string_view text) {
    std::vector<std::string> lines;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        if (line.ends_with('\r')) line.remove_suffix(1);
        lines.emplace_back(line);
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return lines;
}

std::unique_ptr<Tokenizer> open_vocabulary_and_merges(const fs::path& path, const JsonValue& vocabulary) {
    const MappedFile file((path.parent_path() / "merges.txt").string());
    std::vector<std::string> merges = lines_of(file.text());
    if (!merges.empty() && merges[0].starts_with("#version")) merges.erase(merges.begin());
    std::erase(merges, "");
    return std::make_unique<huggingface::JsonTokenizer>(huggingface::byte_level_document(vocabulary, merges));
}

std::unique_ptr<Tokenizer> open_word_list(const fs::path& path, std::string_view text) {
    bool lower = true;
    const fs::path config = path.parent_path() / "tokenizer_config.json";
    if (fs::exists(config)) {
        const MappedFile file(config.string());
        const JsonValue root = parse_json(file.text(), config.string());
        if (const JsonValue* said = root.find("do_lower_case"); said != nullptr) lower = said->truth;
    }
    return std::make_unique<huggingface::JsonTokenizer>(huggingface::wordpiece_document(lines_of(text), lower));
}

std::unique_ptr<Tokenizer> open_file(const fs::path& path) {
    const MappedFile file(path.string());
    const std::string_view text = file.text();
    if (text.size() > file_limit)
        throw ConfigError(fmt::format("{} bytes, at most {} of a tokenizer are read", text.size(), file_limit));
    if (path.extension() == ".model") return load_sentencepiece(text);
    if (path.extension() == ".txt") return open_word_list(path, text);
    if (path.extension() != ".json") throw ConfigError("a tokenizer's file is named .json, .model or .txt");
    if (text.starts_with(R"({"kind":)")) return Tokenizer::load(text);
    JsonValue root = parse_json(text, "tokenizer");
    if (root.find("model") == nullptr && fs::exists(path.parent_path() / "merges.txt"))
        return open_vocabulary_and_merges(path, root);
    return std::make_unique<huggingface::JsonTokenizer>(std::move(root));
}

fs::path file_in(const std::string& path) {
    std::error_code ignored;
    if (!fs::is_directory(path, ignored)) return path;
    constexpr std::array<const char*, 5> names = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json",
                                                  "vocab.txt"};
    for (const char* name : names)
        if (fs::exists(fs::path(path) / name)) return fs::path(path) / name;
    throw DataError(fmt::format("{}: this folder holds no tokenizer: none of {}", path, fmt::join(names, ", ")));
}

} // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const std::string& path) {
    const fs::path file = file_in(path);
    try {
        return open_file(file);
    } catch (const DataError&) {
        throw;
    } catch (const ConfigError& error) {
        throw DataError(fmt::format("{}: {}", file.string(), error.what()));
    }
}

} // namespace tessera
