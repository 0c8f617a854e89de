// SPDX-License-Identifier: Apache-2.0
// Every rank cuts the whole corpus into records, which is cheap, and works on an even share of them.
#include "core/data/prepare.hpp"

#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/indexed_tokens.hpp"
#include "core/data/mapped_file.hpp"
#include "core/json.hpp"
#include "core/json_value.hpp"
#include "core/run/text_file.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct Record {
    const MappedFile* file;
    std::string_view bytes;
};

class Corpus {
public:
    explicit Corpus(const PrepareOptions& options) : how_(options.records) {
        const std::vector<std::string_view> names = {"file", "jsonl", "line", "paragraph"};
        if (std::ranges::find(names, how_) == names.end())
            throw ConfigError(no_such_name("kind of records", how_, names));
        for (const std::string& path : matching_paths(options.files))
            files_.push_back(std::make_unique<MappedFile>(path));
        for (const auto& file : files_)
            cut(*file);
    }

    std::size_t size() const { return records_.size(); }
    std::string place(std::size_t number) const {
        const Record& record = records_[number];
        return fmt::format("{}: byte {}", record.file->path(), record.bytes.data() - record.file->text().data());
    }

    // The text of a record; nothing where a line is no JSON with a text, which counts as broken.
    std::optional<std::string> text(std::size_t number) const {
        const std::string_view bytes = records_[number].bytes;
        if (how_ != "jsonl") return std::string(bytes);
        try {
            const JsonValue root = parse_json(bytes, "record");
            const JsonValue* text = root.find("text");
            if (text != nullptr && text->is(JsonValue::Kind::text)) return text->text;
        } catch (const ConfigError&) { // its place is told with the count
        }
        return std::nullopt;
    }

private:
    void cut(const MappedFile& file) {
        std::string_view rest = file.text();
        if (how_ == "file") records_.push_back({&file, rest});
        while (how_ != "file" && !rest.empty()) {
            const std::size_t end =
                how_ == "paragraph" ? end_of_paragraph(rest) : std::min(rest.find('\n'), rest.size());
            std::string_view record = rest.substr(0, end);
            rest.remove_prefix(std::min(end + 1, rest.size()));
            while (how_ == "paragraph" && (rest.starts_with('\n') || rest.starts_with("\r\n")))
                rest.remove_prefix(rest[0] == '\r' ? 2 : 1);
            if (record.ends_with('\r')) record.remove_suffix(1);
            records_.push_back({&file, record});
        }
    }

    static std::size_t end_of_paragraph(std::string_view text) {
        return std::min({text.find("\n\n"), text.find("\n\r\n"), text.size()});
    }

    std::string how_;
    std::vector<std::unique_ptr<MappedFile>> files_;
    std::vector<Record> records_;
};

template <class Value> std::string as_bytes(const std::vector<Value>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)};
}

template <class Value> std::vector<Value> gather(const std::vector<Value>& own, const Workers& workers) {
    std::vector<Value> all;
    for (const std::string& bytes : workers.gather(as_bytes(own))) {
        const std::size_t before = all.size();
        all.resize(before + bytes.size() / sizeof(Value));
        std::memcpy(all.data() + before, bytes.data(), bytes.size());
    }
    return all;
}

// Facts of all records; each rank finds those of its share.
std::vector<RecordFacts> find_facts(const Corpus& corpus, const PrepareOptions& options, const Workers& workers) {
    const auto [begin, end] = workers.share_of(corpus.size());
    std::vector<RecordFacts> own;
    for (std::size_t i = begin; i < end; ++i) {
        const auto text = corpus.text(i);
        own.push_back(text ? facts_of(*text, options.cleaning.near_duplicates > 0) : RecordFacts{});
    }
    return gather(own, workers);
}

std::unique_ptr<Tokenizer> make_tokenizer(const PrepareOptions& options, const Corpus& corpus,
                                          const std::vector<std::size_t>& kept) {
    if (!options.tokenizer_file.empty()) return Tokenizer::open(options.tokenizer_file);
    std::vector<std::string> owned;
    if (options.tokenizer.kind != "byte")
        for (const std::size_t i : kept)
            owned.push_back(*corpus.text(i));
    std::vector<NamedText> texts;
    for (std::size_t i = 0; i < owned.size(); ++i)
        texts.push_back({corpus.place(kept[i]), owned[i]});
    return train_tokenizer(options.tokenizer, texts);
}

// What follows each document: a token, or the text that stood between records.
std::vector<std::int32_t> end_of_document(const PrepareOptions& options, const Tokenizer& tokenizer) {
    if (!options.end_token.empty()) {
        const auto id = tokenizer.id_of(options.end_token);
        if (!id) throw ConfigError(fmt::format("--end-token: the tokenizer has no token '{:.40}'", options.end_token));
        return {*id};
    }
    for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]"})
        if (const auto id = tokenizer.id_of(name)) return {*id};
    if (options.records == "file") return {};
    try {
        return tokenizer.encode(options.records == "paragraph" ? "\n\n" : "\n");
    } catch (const ConfigError&) { // characters of single lines: none of them ends one
        return {};
    }
}

struct Share {
    std::string bytes; // of the tokens
    std::vector<std::int32_t> lengths;
};

Share tokenize(const Corpus& corpus, const std::vector<std::size_t>& kept, const Tokenizer& tokenizer,
               const std::vector<std::int32_t>& end, int token_bytes, const Workers& workers) {
    const Workers::Share own = workers.share_of(kept.size());
    Share share;
    for (std::size_t i = own.begin; i < own.end; ++i) {
        std::vector<std::int32_t> tokens;
        try {
            tokens = tokenizer.encode(*corpus.text(kept[i]), corpus.place(kept[i]));
        } catch (const ConfigError& error) { // the tokenizer does not know that its text is of a file
            throw DataError(error.what());
        }
        tokens.insert(tokens.end(), end.begin(), end.end());
        if (tokens.size() > INT32_MAX)
            throw DataError(fmt::format("{}: a record of {} tokens; say --records line or paragraph",
                                        corpus.place(kept[i]), tokens.size()));
        for (const std::int32_t token : tokens)
            share.bytes.append(reinterpret_cast<const char*>(&token),
                               static_cast<std::size_t>(token_bytes)); // little-endian
        share.lengths.push_back(static_cast<std::int32_t>(tokens.size()));
    }
    return share;
}

void write_at(const fs::path& path, std::int64_t offset, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offset);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (!file) throw SystemError(fmt::format("{}: cannot write {} bytes", path.string(), bytes.size()));
}

std::string hash_of(const std::string& path) {
    const MappedFile file(path);
    ContentHash hash;
    hash.add(file.bytes().data(), file.bytes().size());
    return hash.text();
}

std::string manifest_text(const fs::path& folder, const Prepared& prepared) {
    std::string text =
        fmt::format("{{\"format\": 1, \"tokens\": {}, \"vocabulary\": {}", prepared.tokens, prepared.vocabulary);
    for (std::size_t i = 0; i < verdict_names.size(); ++i)
        text += fmt::format(", {}: {}", json_string(verdict_names[i]), prepared.records[i]);
    for (const char* name : {"tokens.bin", "tokens.idx", "tokenizer.json"})
        text += fmt::format(", \"{}\": \"{}\"", name, hash_of((folder / name).string()));
    return text + "}\n";
}

} // namespace

Prepared prepare_corpus(const PrepareOptions& options, const Workers& workers) {
    const fs::path folder = options.folder;
    if (fs::exists(folder))
        throw ConfigError(fmt::format("{} is there already, and nothing is overwritten", folder.string()));
    const Corpus corpus(options);
    const std::vector<Verdict> verdicts = judge(find_facts(corpus, options, workers), options.cleaning);
    Prepared prepared;
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < verdicts.size(); ++i) {
        ++prepared.records[static_cast<std::size_t>(verdicts[i])];
        if (verdicts[i] == Verdict::kept) kept.push_back(i);
    }
    if (kept.empty())
        throw DataError(fmt::format("{}: none of {} records is left to keep", options.files[0], verdicts.size()));
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(options, corpus, kept);
    prepared.vocabulary = tokenizer->vocabulary_size();
    const int token_bytes = prepared.vocabulary <= 65536 ? 2 : 4;
    const Share share = tokenize(corpus, kept, *tokenizer, end_of_document(options, *tokenizer), token_bytes, workers);

    const std::vector<std::int64_t> sizes = gather(std::vector{static_cast<std::int64_t>(share.bytes.size())}, workers);
    const std::vector<std::int32_t> lengths = gather(share.lengths, workers);
    std::int64_t total = 0, before = 0;
    for (std::size_t rank = 0; rank < sizes.size(); ++rank) {
        if (static_cast<int>(rank) < workers.rank) before += sizes[rank];
        total += sizes[rank];
    }
    prepared.tokens = total / token_bytes;
    if (workers.rank == 0) {
        fs::create_directories(folder);
        replace_file(folder / "tokens.idx", index_bytes(lengths, token_bytes));
        replace_file(folder / "tokenizer.json", tokenizer->save());
        replace_file(folder / "tokens.bin", "");
        fs::resize_file(folder / "tokens.bin", static_cast<std::uintmax_t>(total));
    }
    workers.gather("made");
    write_at(folder / "tokens.bin", before, share.bytes);
    workers.gather("written");
    if (workers.rank == 0) replace_file(folder / "manifest.json", manifest_text(folder, prepared));
    workers.gather("done");
    return prepared;
}

namespace {

struct OpenFolder {
    explicit OpenFolder(const std::string& path)
        : folder(path), manifest(read_manifest(path)), tokens((folder / "tokens").string()),
          tokenizer(Tokenizer::open((folder / "tokenizer.json").string())) {}

    static JsonValue read_manifest(const fs::path& folder) {
        const std::string path = (folder / "manifest.json").string();
        try {
            return parse_json(MappedFile(path).text(), path);
        } catch (const DataError&) {
            throw;
        } catch (const ConfigError& error) {
            throw DataError(error.what());
        }
    }
    double number(std::string_view name) const {
        const JsonValue* value = manifest.find(name);
        return value == nullptr ? -1 : value->number;
    }

    fs::path folder;
    JsonValue manifest;
    IndexedTokens tokens;
    std::unique_ptr<Tokenizer> tokenizer;
};

} // namespace

PreparedFolder inspect_prepared(const std::string& path) {
    const OpenFolder open(path);
    PreparedFolder found;
    found.text = fmt::format("{}: {} tokens of {} bytes in {} documents\ntokenizer: {}, {} tokens\n", path,
                             open.tokens.tokens(), open.tokens.token_bytes(), open.tokens.sequences(),
                             open.tokenizer->kind(), open.tokenizer->vocabulary_size());
    for (const std::string_view name : verdict_names)
        found.text += fmt::format("records {}: {}\n", name, open.number(name));
    std::vector<std::int32_t> first;
    for (std::int64_t i = 0; open.tokens.sequences() > 0 && i < std::min<std::int64_t>(open.tokens.length(0), 60); ++i)
        first.push_back(static_cast<std::int32_t>(open.tokens.token(open.tokens.first_token(0) + i)));
    found.sample = open.tokenizer->decode(first);
    return found;
}

std::int64_t check_prepared(const std::string& path) {
    const OpenFolder open(path);
    for (const char* name : {"tokens.bin", "tokens.idx", "tokenizer.json"}) {
        const JsonValue* said = open.manifest.find(name);
        const std::string file = (open.folder / name).string(), hash = hash_of(file);
        if (said == nullptr || said->text != hash)
            throw DataError(fmt::format("{}: the hash is {}, manifest.json says {}", file, hash,
                                        said == nullptr ? "nothing" : said->text));
    }
    const auto vocabulary = static_cast<std::uint64_t>(open.tokenizer->vocabulary_size());
    for (std::int64_t i = 0; i < open.tokens.tokens(); ++i)
        if (open.tokens.token(i) >= vocabulary)
            throw DataError(fmt::format("{}: token number {} is {}, beyond the vocabulary of {}",
                                        open.tokens.bin_path(), i, open.tokens.token(i), vocabulary));
    return open.tokens.tokens();
}

} // namespace tessera
