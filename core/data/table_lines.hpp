// SPDX-License-Identifier: Apache-2.0
// The records of a table as fields: CSV (RFC 4180: a quoted field may go on over several lines) and the data of ARFF.
#pragma once

#include "core/data/mapped_file.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

std::string_view trimmed(std::string_view text); // of blanks and tabs

// The records of a file, one after the other, as fields.
class TableLines {
public:
    // `quotes` open and close a field, `comment` a line that says nothing (0: there are none).
    TableLines(const MappedFile& file, char delimiter, std::string_view quotes = "\"", char comment = 0)
        : file_(file), rest_(file.text()), delimiter_(delimiter), quotes_(quotes), comment_(comment) {
        if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3); // a byte order mark
    }

    // False at the end. Empty lines are passed over.
    bool next(std::vector<std::string>& fields) {
        std::string_view line;
        if (!next_line(line)) return false;
        cut(comment_ == 0 ? with_lines_of_quotes(line) : line, fields);
        return true;
    }

    bool next_line(std::string_view& line) {
        while (!rest_.empty()) {
            const std::size_t end = std::min(rest_.find('\n'), rest_.size());
            line = rest_.substr(0, end);
            rest_.remove_prefix(std::min(end + 1, rest_.size()));
            begin_ = ++number_;
            if (line.ends_with('\r')) line.remove_suffix(1);
            if (!line.empty() && (comment_ == 0 || line[0] != comment_)) return true;
        }
        return false;
    }

    // Fields of a record without its end.
    void cut(std::string_view line, std::vector<std::string>& fields) const;

    // FILE:LINE, where the record begins.
    std::string place() const { return file_.path() + ":" + std::to_string(begin_); }
    [[noreturn]] void refuse(const std::string& why) const;

private:
    std::string_view with_lines_of_quotes(std::string_view line);
    std::size_t end_of_record(std::string_view text) const;
    std::size_t unquote(std::string_view line, std::size_t at, std::string& field) const;

    const MappedFile& file_;
    std::string_view rest_;
    char delimiter_;
    std::string_view quotes_;
    char comment_;
    std::int64_t number_ = 0, begin_ = 0; // the last line that was read, and the first of its record
};

} // namespace tessera
