// SPDX-License-Identifier: Apache-2.0
#include "core/data/huggingface/joiner.hpp"

#include "core/data/huggingface/component.hpp"
#include "core/data/huggingface/normalizer.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <array>
#include <cstdlib>

namespace tessera::huggingface {
namespace {

using Tokens = std::vector<std::string>;

void replace_all(std::string& text, std::string_view old, std::string_view with) {
    for (std::size_t at = 0; !old.empty() && (at = text.find(old, at)) != std::string::npos; at += with.size())
        text.replace(at, old.size(), with);
}

// A token with a character that is no byte (an added one) stays as it is.
std::string as_bytes(const std::string& token) {
    std::string bytes;
    for (std::size_t at = 0; at < token.size();) {
        const auto here = read_code_point(token, at);
        const int byte = here ? byte_of_text(here->value) : -1;
        if (byte < 0) return token;
        bytes += static_cast<char>(byte);
        at += here->bytes;
    }
    return bytes;
}

Joiner byte_level(const JsonValue&) {
    return [](Tokens tokens) {
        for (std::string& token : tokens)
            token = as_bytes(token);
        return tokens;
    };
}

Joiner word_piece(const JsonValue& component) {
    const std::string prefix = text_of(component, "prefix", "##");
    const bool cleans = truth_of(component, "cleanup", true);
    return [prefix, cleans](Tokens tokens) {
        constexpr std::array<std::array<std::string_view, 2>, 11> spaces = {{{" .", "."},
                                                                             {" ?", "?"},
                                                                             {" !", "!"},
                                                                             {" ,", ","},
                                                                             {" ' ", "'"},
                                                                             {" n't", "n't"},
                                                                             {" 'm", "'m"},
                                                                             {" do not", " don't"},
                                                                             {" 's", "'s"},
                                                                             {" 've", "'ve"},
                                                                             {" 're", "'re"}}};
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            if (i > 0 && tokens[i].starts_with(prefix))
                tokens[i].erase(0, prefix.size());
            else if (i > 0)
                tokens[i].insert(tokens[i].begin(), ' ');
            if (cleans)
                for (const auto& [old, with] : spaces)
                    replace_all(tokens[i], old, with);
        }
        return tokens;
    };
}

Joiner bpe(const JsonValue& component) {
    return [suffix = text_of(component, "suffix", "</w>")](Tokens tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i)
            replace_all(tokens[i], suffix, i + 1 == tokens.size() ? "" : " ");
        return tokens;
    };
}

Joiner metaspace(const JsonValue& component) {
    const std::string mark = text_of(component, "replacement", "\xE2\x96\x81");
    const bool prefix = text_of(component, "prepend_scheme",
                                truth_of(component, "add_prefix_space", true) ? "always" : "never") != "never";
    return [mark, prefix](Tokens tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i)
            replace_all(tokens[i], mark, i == 0 && prefix ? "" : " ");
        return tokens;
    };
}

Joiner byte_fallback(const JsonValue&) {
    return [](Tokens tokens) {
        for (std::string& token : tokens)
            if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>') &&
                token.find_first_not_of("0123456789ABCDEFabcdef", 3) == 5)
                token = std::string(1, static_cast<char>(std::strtol(token.substr(3, 2).c_str(), nullptr, 16)));
        return tokens;
    };
}

Joiner fuse(const JsonValue&) {
    return [](const Tokens& tokens) {
        std::string all;
        for (const std::string& token : tokens)
            all += token;
        return Tokens{all};
    };
}

Joiner replace(const JsonValue& component) {
    const JsonValue* pattern = component.find("pattern");
    if (pattern == nullptr || pattern->find("String") == nullptr)
        throw ConfigError("tokenizer: the decoder Replace has no pattern that is a string");
    return [old = text_of(*pattern, "String", ""), with = text_of(component, "content", "")](Tokens tokens) {
        for (std::string& token : tokens)
            replace_all(token, old, with);
        return tokens;
    };
}

Joiner strip(const JsonValue& component) {
    const auto count = [&](const char* name) {
        const JsonValue* value = component.find(name);
        return value == nullptr ? 0.0 : value->number;
    };
    const double start = count("start"), stop = count("stop");
    return [content = text_of(component, "content", " "), start, stop](Tokens tokens) {
        for (std::string& token : tokens) {
            for (double i = 0; i < start && !content.empty() && token.starts_with(content); ++i)
                token.erase(0, content.size());
            for (double i = 0; i < stop && !content.empty() && token.ends_with(content); ++i)
                token.resize(token.size() - content.size());
        }
        return tokens;
    };
}

Joiner sequence(const JsonValue& component) {
    std::vector<Joiner> steps;
    for (const JsonValue& item : list_of(component, "decoders").items)
        steps.push_back(make_joiner(&item));
    return [steps](Tokens tokens) {
        for (const Joiner& step : steps)
            tokens = step(std::move(tokens));
        return tokens;
    };
}

struct Kind {
    std::string_view name;
    Joiner (*make)(const JsonValue&);
};

constexpr std::array<Kind, 9> catalog = {{{"BPEDecoder", bpe},
                                          {"ByteFallback", byte_fallback},
                                          {"ByteLevel", byte_level},
                                          {"Fuse", fuse},
                                          {"Metaspace", metaspace},
                                          {"Replace", replace},
                                          {"Sequence", sequence},
                                          {"Strip", strip},
                                          {"WordPiece", word_piece}}};

} // namespace

Joiner make_joiner(const JsonValue* component) {
    if (present(component) == nullptr)
        return [](Tokens tokens) {
            for (std::size_t i = 1; i < tokens.size(); ++i)
                tokens[i].insert(tokens[i].begin(), ' ');
            return tokens;
        };
    const std::string type = type_of(*component);
    std::vector<std::string_view> names;
    for (const Kind& kind : catalog) {
        if (kind.name == type) return kind.make(*component);
        names.push_back(kind.name);
    }
    throw ConfigError("tokenizer: " + no_such_name("decoder", type, names));
}

} // namespace tessera::huggingface
