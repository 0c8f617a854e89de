// SPDX-License-Identifier: Apache-2.0
// Every pre-tokenizer marks ranges as matches or not, and a behaviour says what becomes of them.
#include "core/data/huggingface/splitter.hpp"

#include "core/data/huggingface/component.hpp"
#include "core/data/huggingface/normalizer.hpp"
#include "core/data/regex.hpp"
#include "core/data/unicode.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <array>
#include <optional>

namespace tessera::huggingface {
namespace {

struct Mark {
    TextRange range;
    bool match = false;
};
using Marks = std::vector<Mark>; // side by side, over all of a piece
using Finder = std::function<Marks(std::string_view)>;
enum class Behaviour { removed, isolated, contiguous, merged_with_previous, merged_with_next };

Behaviour behaviour_named(const std::string& name) {
    constexpr std::array<std::string_view, 5> names = {"Removed", "Isolated", "Contiguous", "MergedWithPrevious",
                                                       "MergedWithNext"};
    for (std::size_t i = 0; i < names.size(); ++i)
        if (names[i] == name) return static_cast<Behaviour>(i);
    throw ConfigError("tokenizer: " +
                      no_such_name("behaviour of a split", name.substr(0, 40), {names.begin(), names.end()}));
}

Marks with_gaps(const std::vector<TextRange>& matches, std::size_t size) {
    Marks marks;
    std::size_t done = 0;
    for (const TextRange& match : matches) {
        if (done < match.begin) marks.push_back({{done, match.begin}, false});
        marks.push_back({match, true});
        done = match.end;
    }
    if (done < size) marks.push_back({{done, size}, false});
    return marks;
}

Finder pattern_finder(Regex regex) {
    return [regex = std::move(regex)](std::string_view text) {
        std::vector<TextRange> matches;
        for (std::size_t from = 0; from < text.size();) {
            const auto match = regex.find(text, from);
            if (!match) break;
            if (match->end > match->begin) matches.push_back(*match);
            from = std::max(match->end, from + (match->end == match->begin ? 1 : 0));
            while (from < text.size() && (text[from] & 0xC0) == 0x80)
                ++from;
        }
        return with_gaps(matches, text.size());
    };
}

Finder text_finder(const std::string& wanted) {
    return [wanted](std::string_view text) {
        std::vector<TextRange> matches;
        for (std::size_t at = 0; !wanted.empty() && (at = text.find(wanted, at)) != std::string_view::npos;
             at += wanted.size())
            matches.push_back({at, at + wanted.size()});
        return with_gaps(matches, text.size());
    };
}

// Each code point of a class is a match by itself.
Finder class_finder(bool (*is_member)(std::uint32_t)) {
    return [is_member](std::string_view text) {
        std::vector<TextRange> matches;
        for (std::size_t at = 0; at < text.size();) {
            const CodePoint here = *read_code_point(text, at);
            if (is_member(here.value)) matches.push_back({at, at + here.bytes});
            at += here.bytes;
        }
        return with_gaps(matches, text.size());
    };
}

// Joins neighbours as the behaviour has it; `match` then means that the range is dropped.
Marks settle(const Marks& marks, Behaviour behaviour) {
    Marks settled;
    const auto join = [&](const Mark& mark, bool joins) {
        if (joins && !settled.empty())
            settled.back().range.end = mark.range.end;
        else
            settled.push_back({mark.range, false});
    };
    bool before = false;
    for (std::size_t i = 0; i < marks.size(); ++i) {
        const Mark& mark = marks[i];
        switch (behaviour) {
        case Behaviour::removed:
            settled.push_back(mark);
            break;
        case Behaviour::isolated:
            settled.push_back({mark.range, false});
            break;
        case Behaviour::contiguous:
            join(mark, i > 0 && before == mark.match);
            break;
        case Behaviour::merged_with_previous:
            join(mark, mark.match && !before);
            break;
        case Behaviour::merged_with_next: // a match joins what follows it, unless that is a match
            join(mark, i > 0 && before && !mark.match);
            break;
        }
        before = mark.match;
    }
    return settled;
}

std::vector<std::string> cut(const std::vector<std::string>& pieces, const Finder& find, Behaviour behaviour,
                             bool invert) {
    std::vector<std::string> out;
    for (const std::string& piece : pieces) {
        Marks marks = find(piece);
        if (invert)
            for (Mark& mark : marks)
                mark.match = !mark.match;
        for (const Mark& mark : settle(marks, behaviour))
            if (!mark.match && mark.range.end > mark.range.begin)
                out.push_back(piece.substr(mark.range.begin, mark.range.end - mark.range.begin));
    }
    return out;
}

Splitter cutter(Finder find, Behaviour behaviour, bool invert = false) {
    return [find = std::move(find), behaviour, invert](const std::vector<std::string>& pieces, bool) {
        return cut(pieces, find, behaviour, invert);
    };
}

Splitter byte_level(const JsonValue& component) {
    const bool prefix = truth_of(component, "add_prefix_space", true);
    std::optional<Finder> find;
    if (truth_of(component, "use_regex", true))
        find = pattern_finder(Regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"));
    return [prefix, find](std::vector<std::string> pieces, bool) {
        for (std::string& piece : pieces)
            if (prefix && !piece.starts_with(' ')) piece.insert(piece.begin(), ' ');
        if (find) pieces = cut(pieces, *find, Behaviour::isolated, false);
        for (std::string& piece : pieces)
            piece = bytes_as_text(piece);
        return pieces;
    };
}

Splitter split(const JsonValue& component) {
    const JsonValue* pattern = component.find("pattern");
    if (pattern == nullptr) throw ConfigError("tokenizer: Split has no pattern");
    const Behaviour behaviour = behaviour_named(text_of(component, "behavior", ""));
    const bool literal = pattern->find("String") != nullptr;
    return cutter(literal ? text_finder(text_of(*pattern, "String", ""))
                          : pattern_finder(Regex(text_of(*pattern, "Regex", ""))),
                  behaviour, truth_of(component, "invert", false));
}

Splitter bert(const JsonValue&) {
    return [](const std::vector<std::string>& pieces, bool) {
        return cut(cut(pieces, class_finder(is_white_space), Behaviour::removed, false),
                   class_finder(is_unicode_punctuation), Behaviour::isolated, false);
    };
}

Splitter whitespace(const JsonValue&) {
    return cutter(pattern_finder(Regex(R"(\w+|[^\w\s]+)")), Behaviour::removed, true);
}

Splitter whitespace_split(const JsonValue&) { return cutter(class_finder(is_white_space), Behaviour::removed); }

Splitter punctuation(const JsonValue& component) {
    return cutter(class_finder(is_unicode_punctuation), behaviour_named(text_of(component, "behavior", "Isolated")));
}

Splitter digits(const JsonValue& component) {
    return cutter(class_finder(is_number),
                  truth_of(component, "individual_digits", false) ? Behaviour::isolated : Behaviour::contiguous);
}

Splitter metaspace(const JsonValue& component) {
    const std::string mark = text_of(component, "replacement", "\xE2\x96\x81");
    const std::string scheme =
        text_of(component, "prepend_scheme", truth_of(component, "add_prefix_space", true) ? "always" : "never");
    if (scheme != "always" && scheme != "first" && scheme != "never")
        throw ConfigError("tokenizer: " +
                          no_such_name("prepend_scheme", scheme.substr(0, 40), {"always", "first", "never"}));
    const bool splits = truth_of(component, "split", true);
    return [=](std::vector<std::string> pieces, bool first) {
        for (std::size_t i = 0; i < pieces.size(); ++i) {
            std::string marked;
            for (const char c : pieces[i])
                c == ' ' ? marked += mark : marked += c;
            const bool wanted = scheme == "always" || (scheme == "first" && first && i == 0);
            pieces[i] = wanted && !marked.starts_with(mark) ? mark + marked : marked;
        }
        return splits ? cut(pieces, text_finder(mark), Behaviour::merged_with_next, false) : pieces;
    };
}

Splitter sequence(const JsonValue& component) {
    std::vector<Splitter> steps;
    for (const JsonValue& item : list_of(component, "pretokenizers").items)
        steps.push_back(make_splitter(&item));
    return [steps](std::vector<std::string> pieces, bool first) {
        for (const Splitter& step : steps)
            pieces = step(std::move(pieces), first);
        return pieces;
    };
}

struct Kind {
    std::string_view name;
    Splitter (*make)(const JsonValue&);
};

constexpr std::array<Kind, 9> catalog = {{{"BertPreTokenizer", bert},
                                          {"ByteLevel", byte_level},
                                          {"Digits", digits},
                                          {"Metaspace", metaspace},
                                          {"Punctuation", punctuation},
                                          {"Sequence", sequence},
                                          {"Split", split},
                                          {"Whitespace", whitespace},
                                          {"WhitespaceSplit", whitespace_split}}};

} // namespace

Splitter make_splitter(const JsonValue* component) {
    if (present(component) == nullptr) return [](std::vector<std::string> pieces, bool) { return pieces; };
    const std::string type = type_of(*component);
    std::vector<std::string_view> names;
    for (const Kind& kind : catalog) {
        if (kind.name == type) return kind.make(*component);
        names.push_back(kind.name);
    }
    throw ConfigError("tokenizer: " + no_such_name("pre-tokenizer", type, names));
}

} // namespace tessera::huggingface
