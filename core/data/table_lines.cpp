// SPDX-License-Identifier: Apache-2.0
#include "core/data/table_lines.hpp"

#include "core/data/data_error.hpp"

#include <fmt/format.h>

namespace tessera {

std::string_view trimmed(std::string_view text) {
    while (text.starts_with(' ') || text.starts_with('\t'))
        text.remove_prefix(1);
    while (text.ends_with(' ') || text.ends_with('\t'))
        text.remove_suffix(1);
    return text;
}

void TableLines::refuse(const std::string& why) const { throw DataError(place() + ": " + why); }

void TableLines::cut(std::string_view line, std::vector<std::string>& fields) const {
    fields.clear();
    for (std::size_t at = 0;;) {
        std::string& field = fields.emplace_back();
        const auto pass_blanks = [&] { // around the quotes of ARFF
            while (comment_ != 0 && at < line.size() && (line[at] == ' ' || line[at] == '\t'))
                ++at;
        };
        pass_blanks();
        if (at < line.size() && quotes_.find(line[at]) != std::string_view::npos) {
            at = unquote(line, at + 1, field);
            pass_blanks();
        } else
            while (at < line.size() && line[at] != delimiter_)
                field += line[at++];
        if (at == line.size()) return;
        if (line[at] != delimiter_)
            refuse(fmt::format("field {}: expected '{}' after the closing quote", fields.size(), delimiter_));
        ++at;
    }
}

// From behind the opening quote to behind the closing one; two quotes are one.
std::size_t TableLines::unquote(std::string_view line, std::size_t at, std::string& field) const {
    const char quote = line[at - 1];
    for (; at < line.size(); ++at) {
        if (line[at] == quote && (at + 1 == line.size() || line[at + 1] != quote)) return at + 1;
        if (line[at] == quote || (comment_ != 0 && line[at] == '\\' && at + 1 < line.size())) ++at;
        field += line[at];
    }
    refuse("a quote is opened and not closed on this line");
}

} // namespace tessera
