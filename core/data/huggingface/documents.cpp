// SPDX-License-Identifier: Apache-2.0
#include "core/data/huggingface/documents.hpp"

namespace tessera::huggingface {
namespace {

JsonValue text_value(std::string_view text) {
    JsonValue value;
    value.kind = JsonValue::Kind::text;
    value.text = text;
    return value;
}

JsonValue number_value(std::size_t number) {
    JsonValue value;
    value.kind = JsonValue::Kind::number;
    value.number = static_cast<double>(number);
    return value;
}

JsonValue& member(JsonValue& object, std::string_view name) {
    for (std::size_t i = 0; i < object.names.size(); ++i)
        if (object.names[i] == name) return object.items[i];
    object.kind = JsonValue::Kind::object;
    object.names.emplace_back(name);
    return object.items.emplace_back();
}

// Those of `marks` that the vocabulary holds become special tokens.
void add_marks(JsonValue& document, const JsonValue& vocabulary, const std::vector<std::string_view>& marks) {
    JsonValue& added = member(document, "added_tokens");
    added.kind = JsonValue::Kind::array;
    for (const std::string_view mark : marks)
        if (const JsonValue* id = vocabulary.find(mark)) {
            JsonValue entry = parse_json(R"({"special": true})", "tokenizer");
            member(entry, "id") = *id;
            member(entry, "content") = text_value(mark);
            added.items.push_back(entry);
        }
}

} // namespace

JsonValue wordpiece_document(const std::vector<std::string>& tokens, bool lower_case) {
    JsonValue document = parse_json(R"({"version": "1.0",
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}})",
                                    "tokenizer");
    JsonValue lower;
    lower.kind = JsonValue::Kind::truth;
    lower.truth = lower_case;
    member(member(document, "normalizer"), "lowercase") = lower;
    JsonValue vocabulary;
    vocabulary.kind = JsonValue::Kind::object;
    for (std::size_t id = 0; id < tokens.size(); ++id) {
        vocabulary.names.push_back(tokens[id]);
        vocabulary.items.push_back(number_value(id));
    }
    add_marks(document, vocabulary, {bert_marks.begin(), bert_marks.end()});
    if (vocabulary.find("[CLS]") != nullptr && vocabulary.find("[SEP]") != nullptr)
        member(document, "post_processor") = parse_json(R"({"type": "TemplateProcessing", "single":
            [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "[SEP]"}}]})",
                                                        "tokenizer");
    member(member(document, "model"), "vocab") = std::move(vocabulary);
    return document;
}

JsonValue byte_level_document(const JsonValue& vocabulary, const std::vector<std::string>& merges) {
    JsonValue document = parse_json(R"({"version": "1.0",
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE"}})",
                                    "tokenizer");
    JsonValue list;
    list.kind = JsonValue::Kind::array;
    for (const std::string& merge : merges)
        list.items.push_back(text_value(merge));
    add_marks(document, vocabulary, {"<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"});
    member(member(document, "model"), "merges") = std::move(list);
    member(member(document, "model"), "vocab") = vocabulary;
    return document;
}

} // namespace tessera::huggingface
