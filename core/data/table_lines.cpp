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

// Behind a record that begins with the text: of a quote that is never closed, or that closes within a field, npos.
std::size_t TableLines::end_of_record(std::string_view text) const {
    for (std::size_t at = 0;;) {
        if (at < text.size() && quotes_.find(text[at]) != std::string_view::npos) {
            const char quote = text[at++];
            for (;; at += 2) { // behind pairs of quotes
                at = text.find(quote, at);
                if (at == std::string_view::npos) return at;
                if (at + 1 == text.size() || text[at + 1] != quote) break;
            }
            ++at;
            if (text.substr(at).starts_with("\r\n")) ++at;
            if (at < text.size() && text[at] != delimiter_ && text[at] != '\n') return std::string_view::npos;
        } else {
            while (at < text.size() && text[at] != delimiter_ && text[at] != '\n')
                ++at;
        }
        if (at == text.size() || text[at] == '\n') return at;
        ++at;
    }
}

// The line with those after it that a quoted field goes on over. One whose quote is not closed stays alone, to be
// refused: the lines after it are records of their own.
std::string_view TableLines::with_lines_of_quotes(std::string_view line) {
    if (line.find_first_of(quotes_) == std::string_view::npos) return line;
    const std::string_view text(line.data(), static_cast<std::size_t>(rest_.data() + rest_.size() - line.data()));
    const std::size_t end = end_of_record(text);
    if (end == std::string_view::npos || end <= line.size() + 1) return line; // its own end is \n or \r\n
    number_ += std::ranges::count(text.substr(line.size(), end - line.size()), '\n');
    rest_ = text.substr(std::min(end + 1, text.size()));
    std::string_view record = text.substr(0, end);
    if (record.ends_with('\r')) record.remove_suffix(1);
    return record;
}

// From behind the opening quote to behind the closing one; two quotes are one.
std::size_t TableLines::unquote(std::string_view line, std::size_t at, std::string& field) const {
    const char quote = line[at - 1];
    for (; at < line.size(); ++at) {
        if (line[at] == quote && (at + 1 == line.size() || line[at + 1] != quote)) return at + 1;
        if (line[at] == quote || (comment_ != 0 && line[at] == '\\' && at + 1 < line.size())) ++at;
        field += line[at];
    }
    refuse("a quote is opened and never closed");
}

} // namespace tessera
