// SPDX-License-Identifier: Apache-2.0
// The header of an ARFF file: what its columns are named, and which hold categories.
#pragma once

#include "core/data/table_lines.hpp"

#include <map>

namespace tessera {

struct ArffHeader {
    std::vector<std::string> names;
    std::map<std::size_t, std::vector<std::string>> categories; // of nominal columns, as they are listed
};

// Reads to behind the line "@data". Numbers (numeric, real, integer) and nominal columns; strings are categories that
// nobody has listed. Throws DataError for a date, a relation within a column, or what is no header.
ArffHeader read_arff_header(TableLines& lines);

} // namespace tessera
