// SPDX-License-Identifier: Apache-2.0
// The pipeline. A text repeats its pieces, so each is looked up in the model once per call.
#include "core/data/huggingface/tokenizer.hpp"

#include "core/data/huggingface/component.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::huggingface {
namespace {

const JsonValue& model_of(const JsonValue& root) {
    const JsonValue* model = root.find("model");
    if (model == nullptr || !model->is(JsonValue::Kind::object))
        throw ConfigError("tokenizer: the JSON has no object 'model'");
    return *model;
}

void check_utf8(std::string_view text, std::string_view source) {
    for (std::size_t at = 0; at < text.size();) {
        const auto here = read_code_point(text, at);
        if (!here) throw ConfigError(invalid_utf8(source, text, at));
        at += here->bytes;
    }
}

} // namespace

JsonTokenizer::JsonTokenizer(JsonValue root)
    : root_(std::make_unique<const JsonValue>(std::move(root))), vocabulary_(vocabulary_of(model_of(*root_))),
      normalizer_(make_normalizer(root_->find("normalizer"))), splitter_(make_splitter(root_->find("pre_tokenizer"))),
      model_(make_subwords(model_of(*root_), vocabulary_)), joiner_(make_joiner(root_->find("decoder"))) {
    const std::vector<AddedToken> added = added_tokens_of(*root_);
    name_tokens(added);
    before_ = AddedTokens(added, false, normalizer_);
    after_ = AddedTokens(added, true, normalizer_);
    read_around();
}

void JsonTokenizer::name_tokens(const std::vector<AddedToken>& added) {
    std::int64_t size = 0;
    for (const auto& [token, id] : vocabulary_)
        size = std::max<std::int64_t>(size, id + 1);
    for (const AddedToken& token : added)
        size = std::max<std::int64_t>(size, token.id + 1);
    const auto entries = static_cast<std::int64_t>(vocabulary_.size() + added.size());
    if (size == 0) throw ConfigError("tokenizer: the vocabulary is empty");
    if (size > 4 * entries + 1024)
        throw ConfigError(
            fmt::format("tokenizer: {} tokens have ids up to {}: most ids have no token", entries, size - 1));
    tokens_.resize(static_cast<std::size_t>(size));
    for (const auto& [token, id] : vocabulary_)
        tokens_[static_cast<std::size_t>(id)] = token;
    for (const AddedToken& token : added)
        tokens_[static_cast<std::size_t>(token.id)] = token.content;
}

// What the post-processor puts around one text: [CLS] … [SEP], <s> … </s>, <|begin_of_text|> ….
void JsonTokenizer::read_around() {
    const JsonValue* processor = present(root_->find("post_processor"));
    if (processor == nullptr) return;
    const auto add = [&](const std::string& name, std::vector<std::int32_t>& ids) {
        const auto id = id_of(name);
        if (!id)
            throw ConfigError(fmt::format("tokenizer: the post-processor names '{:.40}', which is no token", name));
        ids.push_back(*id);
    };
    const auto read = [&](const JsonValue& one) {
        const std::string type = type_of(one);
        if (type == "BertProcessing" || type == "RobertaProcessing") {
            for (const char* end : {"cls", "sep"}) {
                const JsonValue& pair = list_of(one, end);
                if (pair.items.empty()) throw ConfigError(fmt::format("tokenizer: '{}' of {} is empty", end, type));
                add(pair.items[0].text, std::string_view(end) == "cls" ? around_.before : around_.after);
            }
        } else if (type == "TemplateProcessing") {
            bool behind = false;
            for (const JsonValue& part : list_of(one, "single").items) {
                if (const JsonValue* special = part.find("SpecialToken"))
                    add(text_of(*special, "id", ""), behind ? around_.after : around_.before);
                else
                    behind = true;
            }
        } else if (type != "ByteLevel") { // which only moves offsets
            throw ConfigError(fmt::format("tokenizer: no post-processor named '{}'", type));
        }
    };
    if (type_of(*processor) != "Sequence") return read(*processor);
    for (const JsonValue& one : list_of(*processor, "processors").items)
        read(one);
}

void JsonTokenizer::append_text(std::string_view text, bool first, std::vector<std::int32_t>& ids) const {
    const std::string normal = normalizer_(std::string(text));
    struct Range {
        std::size_t begin;
        std::size_t end;
    };
    std::unordered_map<std::string, Range> known; // where in `ids` a piece stood first
    for (const Segment& segment : after_.cut(normal)) {
        if (segment.id >= 0) {
            ids.push_back(segment.id);
            continue;
        }
        for (std::string& piece :
             splitter_({std::string(segment.text)}, first && segment.text.data() == normal.data())) {
            if (piece.empty()) continue;
            const auto [place, is_new] = known.try_emplace(std::move(piece));
            Range& range = place->second;
            if (is_new) {
                range.begin = ids.size();
                model_->append(place->first, ids);
                range.end = ids.size();
            } else {
                for (std::size_t i = range.begin; i < range.end; ++i)
                    ids.push_back(ids[i]);
            }
        }
    }
}

std::vector<std::int32_t> JsonTokenizer::encode(std::string_view text, std::string_view source) const {
    check_utf8(text, source);
    std::vector<std::int32_t> ids;
    for (const Segment& segment : before_.cut(text)) {
        if (segment.id >= 0)
            ids.push_back(segment.id);
        else
            append_text(segment.text, segment.text.data() == text.data(), ids);
    }
    return ids;
}

std::string JsonTokenizer::decode(std::span<const std::int32_t> tokens) const {
    std::vector<std::string> names;
    names.reserve(tokens.size());
    for (const std::int32_t token : tokens) {
        if (token < 0 || token >= vocabulary_size())
            throw ConfigError(fmt::format("token {} is not in the vocabulary of {} tokens", token, vocabulary_size()));
        names.push_back(tokens_[static_cast<std::size_t>(token)]);
    }
    std::string text;
    for (const std::string& part : joiner_(std::move(names)))
        text += part;
    return text;
}

std::optional<std::int32_t> JsonTokenizer::id_of(std::string_view token) const {
    const auto found = std::find(tokens_.rbegin(), tokens_.rend(), token);
    if (token.empty() || found == tokens_.rend()) return std::nullopt;
    return static_cast<std::int32_t>(tokens_.rend() - found) - 1;
}

std::string JsonTokenizer::save() const {
    JsonValue copy = *root_;
    if (copy.find("kind") == nullptr) {
        JsonValue kind;
        kind.kind = JsonValue::Kind::text;
        kind.text = "huggingface";
        copy.names.insert(copy.names.begin(), "kind");
        copy.items.insert(copy.items.begin(), kind);
    }
    return json_text(copy);
}

} // namespace tessera::huggingface
