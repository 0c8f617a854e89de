// SPDX-License-Identifier: Apache-2.0
// Each normalizer is a function; a sequence calls one after the other.
#include "core/data/huggingface/normalizer.hpp"

#include "core/data/huggingface/component.hpp"
#include "core/data/regex.hpp"
#include "core/data/unicode.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <array>
#include <fmt/format.h>
#include <unordered_map>
#include <vector>

namespace tessera::huggingface {
namespace {

template <class Visit> void for_each_point(std::string_view text, const Visit& visit) {
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint here = *read_code_point(text, at);
        visit(here.value, text.substr(at, here.bytes));
        at += here.bytes;
    }
}

template <class Keep> std::string filtered(std::string_view text, const Keep& keep) {
    std::string kept;
    kept.reserve(text.size());
    for_each_point(text, [&](std::uint32_t point, std::string_view bytes) {
        if (keep(point)) kept += bytes;
    });
    return kept;
}

std::string clean(std::string_view text) {
    std::string kept;
    kept.reserve(text.size());
    for_each_point(text, [&](std::uint32_t point, std::string_view bytes) {
        const bool space = is_white_space(point);
        const bool control = is_control(point) && point != '\t' && point != '\n' && point != '\r';
        if (point == 0 || point == 0xFFFD || control) return;
        kept += space ? " " : bytes;
    });
    return kept;
}

std::string spaced_ideographs(std::string_view text) {
    std::string spaced;
    spaced.reserve(text.size());
    for_each_point(text, [&](std::uint32_t point, std::string_view bytes) {
        const bool apart = is_cjk_ideograph(point);
        if (apart) spaced += ' ';
        spaced += bytes;
        if (apart) spaced += ' ';
    });
    return spaced;
}

Normalizer bert(const JsonValue& component) {
    const bool cleans = truth_of(component, "clean_text", true),
               ideographs = truth_of(component, "handle_chinese_chars", true);
    const bool lower = truth_of(component, "lowercase", true), strips = truth_of(component, "strip_accents", lower);
    return [=](std::string text) {
        if (cleans) text = clean(text);
        if (ideographs) text = spaced_ideographs(text);
        if (strips)
            text = filtered(normalized(text, NormalForm::nfd),
                            [](std::uint32_t point) { return !is_nonspacing_mark(point); });
        if (lower) text = lower_case(text);
        return text;
    };
}

Normalizer strip(const JsonValue& component) {
    const bool left = truth_of(component, "strip_left", true), right = truth_of(component, "strip_right", true);
    return [=](const std::string& text) {
        std::size_t begin = text.size(), end = 0, at = 0;
        for_each_point(text, [&](std::uint32_t point, std::string_view bytes) {
            if (!is_white_space(point)) {
                begin = std::min(begin, at);
                end = at + bytes.size();
            }
            at += bytes.size();
        });
        if (!left) begin = 0;
        if (!right) end = text.size();
        return begin < end ? text.substr(begin, end - begin) : std::string();
    };
}

// One replacement after the other may double a text each time.
constexpr std::size_t most_bytes = std::size_t{1} << 30;

Normalizer replace(const JsonValue& component) {
    const JsonValue* pattern = component.find("pattern");
    if (pattern == nullptr) throw ConfigError("tokenizer: Replace has no pattern");
    const std::string content = text_of(component, "content", "");
    if (pattern->find("String") != nullptr) {
        const std::string old = text_of(*pattern, "String", "");
        return [=](std::string text) {
            if (old.empty()) return text;
            for (std::size_t at = 0; (at = text.find(old, at)) != std::string::npos; at += content.size()) {
                text.replace(at, old.size(), content);
                if (text.size() > most_bytes) throw ConfigError("tokenizer: Replace makes a text of more than 1 GiB");
            }
            return text;
        };
    }
    return [regex = Regex(text_of(*pattern, "Regex", "")), content](const std::string& text) {
        std::string out;
        std::size_t done = 0;
        for (std::size_t from = 0; from <= text.size();) {
            const auto match = regex.find(text, from);
            if (!match) break;
            if (match->end == match->begin) {
                from = match->end + 1;
                while (from < text.size() && (text[from] & 0xC0) == 0x80)
                    ++from;
                continue;
            }
            out += text.substr(done, match->begin - done) + content;
            from = done = match->end;
        }
        return out + text.substr(done);
    };
}

Normalizer sequence(const JsonValue& component) {
    std::vector<Normalizer> steps;
    for (const JsonValue& item : list_of(component, "normalizers").items)
        steps.push_back(make_normalizer(&item));
    return [steps](std::string text) {
        for (const Normalizer& step : steps)
            text = step(std::move(text));
        return text;
    };
}

template <NormalForm form> Normalizer normal_form(const JsonValue&) {
    return [](const std::string& text) { return normalized(text, form); };
}

Normalizer prepend(const JsonValue& component) {
    return [first = text_of(component, "prepend", "")](std::string text) { return text.empty() ? text : first + text; };
}

Normalizer lowercase(const JsonValue&) {
    return [](const std::string& text) { return lower_case(text); };
}

Normalizer strip_accents(const JsonValue&) {
    return [](const std::string& text) { return filtered(text, [](std::uint32_t point) { return !is_mark(point); }); };
}

Normalizer byte_level(const JsonValue&) {
    return [](const std::string& text) { return bytes_as_text(text); };
}

struct Kind {
    std::string_view name;
    Normalizer (*make)(const JsonValue&);
};

constexpr std::array<Kind, 12> catalog = {{{"BertNormalizer", bert},
                                           {"ByteLevel", byte_level},
                                           {"Lowercase", lowercase},
                                           {"NFC", normal_form<NormalForm::nfc>},
                                           {"NFD", normal_form<NormalForm::nfd>},
                                           {"NFKC", normal_form<NormalForm::nfkc>},
                                           {"NFKD", normal_form<NormalForm::nfkd>},
                                           {"Prepend", prepend},
                                           {"Replace", replace},
                                           {"Sequence", sequence},
                                           {"Strip", strip},
                                           {"StripAccents", strip_accents}}};

struct ByteAlphabet {
    std::array<std::string, 256> texts;
    std::unordered_map<std::uint32_t, int> bytes;
};

// GPT-2's: printable bytes are themselves, the others the code points from 256 on.
const ByteAlphabet& byte_alphabet() {
    static const ByteAlphabet alphabet = [] {
        ByteAlphabet made;
        std::uint32_t next = 256;
        for (int byte = 0; byte < 256; ++byte) {
            const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
            const std::uint32_t point = printable ? static_cast<std::uint32_t>(byte) : next++;
            append_utf8(made.texts[static_cast<std::size_t>(byte)], point);
            made.bytes[point] = byte;
        }
        return made;
    }();
    return alphabet;
}

} // namespace

const std::string& byte_as_text(unsigned char byte) { return byte_alphabet().texts[byte]; }

int byte_of_text(std::uint32_t code_point) {
    const auto found = byte_alphabet().bytes.find(code_point);
    return found == byte_alphabet().bytes.end() ? -1 : found->second;
}

std::string bytes_as_text(std::string_view bytes) {
    std::string text;
    text.reserve(2 * bytes.size());
    for (const char byte : bytes)
        text += byte_as_text(static_cast<unsigned char>(byte));
    return text;
}

Normalizer make_normalizer(const JsonValue* component) {
    if (present(component) == nullptr) return [](std::string text) { return text; };
    const std::string type = type_of(*component);
    std::vector<std::string_view> names;
    for (const Kind& kind : catalog) {
        if (kind.name == type) return kind.make(*component);
        names.push_back(kind.name);
    }
    if (type == "Precompiled")
        throw ConfigError(
            "tokenizer: the normalizer 'Precompiled' is SentencePiece's own: name its model (spiece.model or "
            "tokenizer.model) instead of tokenizer.json");
    throw ConfigError("tokenizer: " + no_such_name("normalizer", type, names));
}

} // namespace tessera::huggingface
