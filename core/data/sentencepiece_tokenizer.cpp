// SPDX-License-Identifier: Apache-2.0
// The only file that includes SentencePiece.
#include "core/data/sentencepiece_tokenizer.hpp"

#include "core/json_value.hpp"
#include "kernels/error.hpp"

#include <array>
#include <fmt/format.h>
#include <sentencepiece_processor.h>

namespace tessera {
namespace {

constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(std::string_view bytes) {
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t three = 0;
        for (std::size_t j = 0; j < 3; ++j)
            three = three << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0);
        for (std::size_t j = 0; j < 4; ++j)
            text += i + j > bytes.size() ? '=' : digits[three >> (18 - 6 * j) & 63];
    }
    return text;
}

std::string from_base64(std::string_view text) {
    std::string bytes;
    std::uint32_t bits = 0;
    int count = 0;
    while (text.ends_with('='))
        text.remove_suffix(1);
    for (const char c : text) {
        const std::size_t digit = digits.find(c);
        if (digit == std::string_view::npos) throw ConfigError("tokenizer: 'model' is not base64");
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        count += 6;
        if (count < 8) continue;
        count -= 8;
        bytes += static_cast<char>(bits >> count & 255);
    }
    return bytes;
}

class SentencePieceTokenizer final : public Tokenizer {
public:
    explicit SentencePieceTokenizer(std::string_view model) {
        const auto status = processor_.LoadFromSerializedProto({model.data(), model.size()});
        if (!status.ok()) throw ConfigError("tokenizer: this is no SentencePiece model");
    }

    std::string_view kind() const override { return "sentencepiece"; }
    std::int64_t vocabulary_size() const override { return processor_.GetPieceSize(); }

    std::vector<std::int32_t> encode(std::string_view text, std::string_view source) const override {
        std::vector<int> ids;
        const auto status = processor_.Encode({text.data(), text.size()}, &ids);
        if (!status.ok()) throw ConfigError(fmt::format("{}: SentencePiece: {}", source, status.error_message()));
        return {ids.begin(), ids.end()};
    }

    std::string decode(std::span<const std::int32_t> tokens) const override {
        for (const std::int32_t token : tokens)
            if (token < 0 || token >= vocabulary_size())
                throw ConfigError(
                    fmt::format("token {} is not in the vocabulary of {} tokens", token, vocabulary_size()));
        std::string text;
        const auto status = processor_.Decode(std::vector<int>(tokens.begin(), tokens.end()), &text);
        if (!status.ok()) throw ConfigError(fmt::format("SentencePiece: {}", status.error_message()));
        return text;
    }

    std::string save() const override {
        return R"({"kind":"sentencepiece","model":")" + base64(processor_.serialized_model_proto()) + "\"}";
    }

    std::optional<std::int32_t> id_of(std::string_view token) const override {
        const int id = processor_.PieceToId({token.data(), token.size()});
        if (processor_.IdToPiece(id) != token) return std::nullopt; // the unknown token is given for all others
        return id;
    }

    TokensAround around() const override { // as T5 and LLaMA 2 are told apart: by which of them the model has
        TokensAround ids;
        if (processor_.bos_id() >= 0) ids.before.push_back(processor_.bos_id());
        if (processor_.bos_id() < 0 && processor_.eos_id() >= 0) ids.after.push_back(processor_.eos_id());
        return ids;
    }

private:
    sentencepiece::SentencePieceProcessor processor_;
};

} // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view model) {
    return std::make_unique<SentencePieceTokenizer>(model);
}

std::unique_ptr<Tokenizer> load_saved_sentencepiece(std::string_view json) {
    return load_sentencepiece(saved_sentencepiece_model(json));
}

std::string saved_sentencepiece_model(std::string_view json) {
    const JsonValue root = parse_json(json, "tokenizer");
    const JsonValue* model = root.find("model");
    if (model == nullptr || !model->is(JsonValue::Kind::text))
        throw ConfigError("tokenizer: there is no string 'model'");
    return from_base64(model->text);
}

} // namespace tessera
