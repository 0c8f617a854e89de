// SPDX-License-Identifier: Apache-2.0
// Which records of a corpus are worth keeping: a pure function of facts about each, so that any number of ranks may
// find the facts.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct CleaningOptions {
    std::int64_t least_characters = 1;
    bool keep_duplicates = false;
    // Records this alike (Jaccard index of their runs of five words) as one before them go; 0: they stay.
    double near_duplicates = 0;
};

// MinHash (Broder 1997): of a hash in 128 orders, the least over all runs of five words.
using Signature = std::array<std::uint32_t, 128>;

struct RecordFacts {
    std::array<std::uint64_t, 2> hash{};
    std::int64_t characters = -1; // code points; -1: the bytes are no UTF-8
    Signature signature{};
};

enum class Verdict : std::uint8_t { kept, broken, too_short, duplicate, near_duplicate };
inline constexpr std::array<std::string_view, 5> verdict_names = {"kept", "broken UTF-8", "too short", "duplicates",
                                                                  "near duplicates"};

RecordFacts facts_of(std::string_view record, bool with_signature);
// Of alike records the first stays. Alikeness is looked for among records that share four neighbouring of the 128
// numbers.
std::vector<Verdict> judge(const std::vector<RecordFacts>& records, const CleaningOptions& options);

} // namespace tessera
