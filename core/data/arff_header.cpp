// SPDX-License-Identifier: Apache-2.0
#include "core/data/arff_header.hpp"

#include "core/data/data_error.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

std::string lower(std::string_view text) {
    std::string made(text);
    for (char& c : made)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    return made;
}

// A word, or what stands in quotes, and the blanks behind it.
std::string take_name(const TableLines& lines, std::string_view& rest) {
    rest = trimmed(rest);
    std::string name;
    const char quote = rest.empty() ? ' ' : rest[0];
    std::size_t end = 0;
    if (quote == '\'' || quote == '"') {
        end = rest.find(quote, 1);
        if (end == std::string_view::npos) lines.refuse("a quote is opened and not closed on this line");
        name = rest.substr(1, end - 1);
        ++end;
    } else {
        end = std::min(rest.find_first_of(" \t{"), rest.size());
        name = rest.substr(0, end);
    }
    rest = trimmed(rest.substr(end));
    if (name.empty()) lines.refuse("an attribute without a name");
    return name;
}

} // namespace

ArffHeader read_arff_header(TableLines& lines) {
    ArffHeader header;
    std::string_view line;
    while (lines.next_line(line)) {
        std::string_view rest = trimmed(line);
        if (rest.empty() || rest[0] == '%') continue;
        const std::string word = lower(rest.substr(0, std::min(rest.find_first_of(" \t"), rest.size())));
        if (word == "@relation") continue;
        if (word == "@data") {
            if (header.names.empty()) lines.refuse("no @attribute stands before @data");
            return header;
        }
        if (word != "@attribute") lines.refuse(fmt::format("expected @attribute or @data, found '{:.40}'", word));
        rest.remove_prefix(word.size());
        header.names.push_back(take_name(lines, rest));
        const std::string type = lower(rest);
        if (rest.starts_with('{') && rest.ends_with('}')) {
            std::vector<std::string> categories;
            lines.cut(rest.substr(1, rest.size() - 2), categories);
            for (std::string& category : categories)
                category = trimmed(category);
            header.categories[header.names.size() - 1] = categories;
        } else if (type == "string") {
            header.categories[header.names.size() - 1] = {};
        } else if (type != "numeric" && type != "real" && type != "integer") {
            lines.refuse(fmt::format("attribute '{}' is '{:.40}', expected numeric, real, integer, string or {{…}}",
                                     header.names.back(), rest));
        }
    }
    lines.refuse("the file ends before @data");
}

} // namespace tessera
