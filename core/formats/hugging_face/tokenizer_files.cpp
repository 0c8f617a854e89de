// SPDX-License-Identifier: Apache-2.0
// One of theirs is written as it was read, with what their library wants to be said; those that are trained here become
// byte pairs of theirs, of which bytes and characters have none.
#include "core/formats/hugging_face/tokenizer_files.hpp"

#include "core/data/huggingface/documents.hpp"
#include "core/data/huggingface/normalizer.hpp"
#include "core/data/sentencepiece_tokenizer.hpp"
#include "core/data/tokenizer.hpp"
#include "core/data/utf8.hpp"
#include "core/formats/hugging_face/family.hpp"
#include "core/formats/new_file.hpp"
#include "core/json.hpp"
#include "core/json_value.hpp"

#include <array>
#include <filesystem>
#include <fmt/format.h>
#include <set>
#include <vector>

namespace tessera {
namespace {

namespace fs = std::filesystem;

// What byte pairs trained here never join across: next_bpe_piece (core/data/bpe_tokenizer.hpp) of Unicode; and of
// ASCII, but for its 256 bytes.
constexpr std::string_view unicode_piece_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| \p{L}{1,63}|\p{L}{1,64}| \p{N}{1,63}|\p{N}{1,64}|)"
    R"( [^\s\p{L}\p{N}]{1,63}|[^\s\p{L}\p{N}]{1,64}|\s{1,64}(?!\S)|\s{1,64})";
constexpr std::string_view piece_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z\x{80}-\x{10FFFF}]+| ?[0-9]+| ?[\x{0}-\x{8}\x{E}-\x{1F}!-/:-@\[-`\{-\x{7F}]+|)"
    R"([ \t\n\x{B}\f\r]+(?![^ \t\n\x{B}\f\r])|[ \t\n\x{B}\f\r]+)";

JsonValue* member(JsonValue& object, std::string_view name) {
    for (std::size_t i = 0; i < object.names.size(); ++i)
        if (object.names[i] == name) return &object.items[i];
    return nullptr;
}

// Adds the members of the object `json` that are not there.
void complete(JsonValue& object, std::string_view json) {
    const JsonValue wanted = parse_json(json, "tokenizer");
    for (std::size_t i = 0; i < wanted.names.size(); ++i)
        if (member(object, wanted.names[i]) == nullptr) {
            object.names.push_back(wanted.names[i]);
            object.items.push_back(wanted.items[i]);
        }
}

bool is_of_type(const JsonValue& component, std::string_view type) {
    const JsonValue* said = component.find("type");
    return said != nullptr && said->text == type;
}

// "single" of a template that says ids alone, for texts and for pairs of them.
void complete_template(JsonValue& processor, const JsonValue& root) {
    if (member(processor, "special_tokens") != nullptr) return;
    std::string single, second, tokens;
    std::set<std::string> named;
    bool behind = false;
    for (const JsonValue& part : processor.find("single")->items) {
        const JsonValue* special = part.find("SpecialToken");
        const auto as = [&](int type) {
            return special == nullptr
                       ? fmt::format(R"({{"Sequence":{{"id":"{}","type_id":{}}}}})", type == 0 ? "A" : "B", type)
                       : fmt::format(R"({{"SpecialToken":{{"id":{},"type_id":{}}}}})",
                                     json_string(special->find("id")->text), type);
        };
        single += (single.empty() ? "" : ",") + as(0);
        if (special == nullptr) behind = true;
        if (behind) second += "," + as(1);
        if (special == nullptr || !named.insert(special->find("id")->text).second) continue;
        const std::string& name = special->find("id")->text;
        double id = -1;
        for (const JsonValue& added : root.find("added_tokens")->items)
            if (added.find("content")->text == name) id = added.find("id")->number;
        tokens += fmt::format(R"({}{}:{{"id":{},"ids":[{}],"tokens":[{}]}})", tokens.empty() ? "" : ",",
                              json_string(name), json_string(name), static_cast<std::int64_t>(id), json_string(name));
    }
    processor = parse_json(fmt::format(R"({{"type":"TemplateProcessing","single":[{}],"pair":[{}{}],)"
                                       R"("special_tokens":{{{}}}}})",
                                       single, single, second, tokens),
                           "tokenizer");
}

// What our own reading does without and theirs does not (documents of vocab.txt and vocab.json).
std::string completed(JsonValue root) {
    if (JsonValue* kind = member(root, "kind"); kind != nullptr) {
        const auto at = kind - root.items.data();
        root.items.erase(root.items.begin() + at);
        root.names.erase(root.names.begin() + at);
    }
    complete(root, R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
                       "pre_tokenizer":null,"post_processor":null,"decoder":null})");
    for (JsonValue& added : member(root, "added_tokens")->items)
        complete(added, R"({"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})");
    for (const char* name : {"pre_tokenizer", "decoder"})
        if (JsonValue* component = member(root, name); is_of_type(*component, "ByteLevel"))
            complete(*component, R"({"add_prefix_space":true,"trim_offsets":true,"use_regex":true})");
    if (JsonValue* processor = member(root, "post_processor"); is_of_type(*processor, "TemplateProcessing"))
        complete_template(*processor, root);
    return json_text(root);
}

// {"model": byte pairs of this vocabulary, by id, and these merges}, with pieces and how texts are put together again.
std::string byte_pairs(const std::vector<std::string>& vocabulary, const std::vector<std::string>& merges,
                       std::string_view rest) {
    std::string tokens, joined;
    for (std::size_t id = 0; id < vocabulary.size(); ++id)
        tokens += fmt::format("{}{}:{}", id > 0 ? "," : "", json_string(vocabulary[id]), id);
    for (const std::string& merge : merges)
        joined += (joined.empty() ? "" : ",") + merge;
    return fmt::format(R"({{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,{},)"
                       R"("post_processor":null,"model":{{"type":"BPE","vocab":{{{}}},"merges":[{}]}}}})",
                       rest, tokens, joined);
}

std::vector<std::string> bytes() {
    std::vector<std::string> all;
    for (int byte = 0; byte < 256; ++byte)
        all.push_back(huggingface::bytes_as_text(std::string(1, static_cast<char>(byte))));
    return all;
}

constexpr std::string_view as_bytes =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";

std::string of_bytes() {
    return byte_pairs(bytes(), {}, fmt::format(R"("pre_tokenizer":{},"decoder":{})", as_bytes, as_bytes));
}

std::string of_characters(const JsonValue& saved) {
    std::vector<std::string> characters;
    for (const JsonValue& point : saved.find("code_points")->items)
        append_utf8(characters.emplace_back(), static_cast<std::uint32_t>(point.number));
    return byte_pairs(characters, {}, R"("pre_tokenizer":null,"decoder":{"type":"Fuse"})");
}

// Empty where two pairs make the same token: theirs have one id each.
std::string of_byte_pairs(const JsonValue& saved, std::string_view pattern) {
    std::vector<std::string> vocabulary = bytes(), merges;
    std::set<std::string> known(vocabulary.begin(), vocabulary.end());
    for (const JsonValue& pair : saved.find("merges")->items) {
        const std::string first = vocabulary[static_cast<std::size_t>(pair.items[0].number)],
                          second = vocabulary[static_cast<std::size_t>(pair.items[1].number)];
        merges.push_back(fmt::format("[{},{}]", json_string(first), json_string(second)));
        vocabulary.push_back(first + second);
        if (!known.insert(vocabulary.back()).second) return {};
    }
    const std::string pieces = fmt::format(
        R"({{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}})", json_string(pattern));
    return byte_pairs(vocabulary, merges,
                      fmt::format(R"("pre_tokenizer":{{"type":"Sequence","pretokenizers":[{},{}]}},"decoder":{})",
                                  pieces, as_bytes, as_bytes));
}

std::string kind_of(const JsonValue& saved) {
    const JsonValue* kind = saved.find("kind");
    return kind == nullptr ? std::string() : kind->text;
}

struct Mark {
    std::string_view field;
    std::vector<std::string_view> tokens; // the first of them that there is
};

std::string config_of(const Tokenizer& tokenizer, const HubTokenizer& of, bool sentencepiece) {
    static const std::vector<Mark> marks = {
        {"bos_token", {"<|begin_of_text|>", "<s>", "<|endoftext|>"}},
        {"cls_token", {"[CLS]"}},
        {"eos_token", {"<|end_of_text|>", "</s>", "<|endoftext|>"}},
        {"mask_token", {"[MASK]", "<mask>"}},
        {"pad_token", {"[PAD]", "<pad>"}},
        {"sep_token", {"[SEP]"}},
        {"unk_token", {"[UNK]", "<unk>", "<|endoftext|>"}},
    };
    HubFields fields;
    const bool t5 = of.model_type == "t5";
    fields.add("tokenizer_class", !sentencepiece ? "PreTrainedTokenizerFast" : t5 ? "T5Tokenizer" : "LlamaTokenizer");
    fields.add("model_max_length", of.length);
    fields.add("clean_up_tokenization_spaces", false);
    fields.add_text("model_input_names", of.model_type == "bert"
                                             ? R"(["input_ids", "token_type_ids", "attention_mask"])"
                                             : R"(["input_ids", "attention_mask"])");
    for (const Mark& mark : marks) {
        if (sentencepiece && t5 && mark.field == "bos_token") continue; // a T5Tokenizer has none
        for (const std::string_view token : mark.tokens)
            if (tokenizer.id_of(token)) {
                fields.add(mark.field, token);
                break;
            }
    }
    constexpr std::int64_t sentinels = 100; // T5's own, behind the pieces
    if (sentencepiece && t5)
        fields.add("extra_ids", tokenizer.vocabulary_size() + sentinels <= of.rows ? sentinels : 0);
    if (sentencepiece && !t5) {
        fields.add("add_bos_token", tokenizer.id_of("<s>").has_value());
        fields.add("legacy", false);
    }
    return fields.text();
}

void write_text(const fs::path& path, const std::string& text) {
    NewFile file(path.string());
    file.write(text.data(), static_cast<std::int64_t>(text.size()));
    file.finish();
}

} // namespace

std::string hub_tokenizer_json(const std::string& saved) {
    const JsonValue root = parse_json(saved, "tokenizer");
    const std::string kind = kind_of(root);
    if (kind == "huggingface") return completed(root);
    if (kind == "byte") return of_bytes();
    if (kind == "character") return of_characters(root);
    if (kind == "bpe") return of_byte_pairs(root, piece_pattern);
    return kind == "bpe_unicode" ? of_byte_pairs(root, unicode_piece_pattern) : std::string();
}

std::string write_hub_tokenizer(const std::string& saved, const HubTokenizer& of, const std::string& folder) {
    if (saved.empty()) return "the checkpoint has none, its data were token ids";
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(saved);
    const bool sentencepiece = tokenizer->kind() == "sentencepiece";
    if (sentencepiece) {
        write_text(fs::path(folder) / (of.model_type == "t5" ? "spiece.model" : "tokenizer.model"),
                   saved_sentencepiece_model(saved));
    } else {
        const std::string json = hub_tokenizer_json(saved);
        if (json.empty()) return fmt::format("theirs have none of the kind '{}'", tokenizer->kind());
        write_text(fs::path(folder) / "tokenizer.json", json);
    }
    write_text(fs::path(folder) / "tokenizer_config.json", config_of(*tokenizer, of, sentencepiece));
    return {};
}

} // namespace tessera
