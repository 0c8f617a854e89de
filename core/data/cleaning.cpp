// SPDX-License-Identifier: Apache-2.0
#include "core/data/cleaning.hpp"

#include "core/data/content_hash.hpp"
#include "core/data/utf8.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

namespace tessera {
namespace {

constexpr std::size_t run_words = 5, band = 4;

std::int64_t count_characters(std::string_view text) {
    std::int64_t count = 0;
    for (std::size_t at = 0; at < text.size(); ++count) {
        const auto here = read_code_point(text, at);
        if (!here) return -1;
        at += here->bytes;
    }
    return count;
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

Signature signature_of(std::string_view text) {
    std::vector<std::uint64_t> words;
    for (std::size_t at = 0; at < text.size();) {
        while (at < text.size() && is_space(text[at]))
            ++at;
        const std::size_t begin = at;
        while (at < text.size() && !is_space(text[at]))
            ++at;
        if (at > begin) words.push_back(short_hash(text.data() + begin, at - begin));
    }
    Signature least;
    least.fill(UINT32_MAX);
    const std::size_t runs = words.size() < run_words ? 1 : words.size() - run_words + 1;
    for (std::size_t run = 0; run < runs; ++run) {
        const std::size_t length = std::min(run_words, words.size() - run);
        const std::uint64_t hash = short_hash(words.data() + run, length * sizeof words[0]);
        for (std::size_t i = 0; i < least.size(); ++i) { // another order for each i: splitmix64 of both
            std::uint64_t mixed = hash + (i + 1) * 0x9e3779b97f4a7c15u;
            mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
            mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
            least[i] = std::min(least[i], static_cast<std::uint32_t>(mixed >> 32));
        }
    }
    return least;
}

class NearDuplicates {
public:
    NearDuplicates(const std::vector<RecordFacts>& records, double alike) : records_(records), alike_(alike) {}

    // Whether a record is like one that was kept; keeps it otherwise.
    bool is_like_a_kept_one(std::size_t number) {
        const Signature& own = records_[number].signature;
        std::array<std::uint64_t, std::tuple_size_v<Signature> / band> keys{};
        std::set<std::size_t> candidates;
        for (std::size_t i = 0; i < keys.size(); ++i) {
            keys[i] = short_hash(own.data() + i * band, band * sizeof own[0], i);
            if (const auto found = kept_.find(keys[i]); found != kept_.end())
                candidates.insert(found->second.begin(), found->second.end());
        }
        for (const std::size_t other : candidates) {
            std::size_t equal = 0;
            for (std::size_t i = 0; i < own.size(); ++i)
                equal += own[i] == records_[other].signature[i] ? 1 : 0;
            if (static_cast<double>(equal) >= alike_ * static_cast<double>(own.size())) return true;
        }
        for (const std::uint64_t key : keys)
            kept_[key].push_back(number);
        return false;
    }

private:
    const std::vector<RecordFacts>& records_;
    double alike_;
    std::unordered_map<std::uint64_t, std::vector<std::size_t>> kept_; // by the hash of a band
};

} // namespace

RecordFacts facts_of(std::string_view record, bool with_signature) {
    RecordFacts facts;
    facts.hash = {short_hash(record.data(), record.size()), short_hash(record.data(), record.size(), 1)};
    facts.characters = count_characters(record);
    if (with_signature && facts.characters >= 0) facts.signature = signature_of(record);
    return facts;
}

std::vector<Verdict> judge(const std::vector<RecordFacts>& records, const CleaningOptions& options) {
    std::vector<Verdict> verdicts(records.size(), Verdict::kept);
    std::set<std::array<std::uint64_t, 2>> seen;
    NearDuplicates near(records, options.near_duplicates);
    for (std::size_t i = 0; i < records.size(); ++i) {
        if (records[i].characters < 0)
            verdicts[i] = Verdict::broken;
        else if (records[i].characters < options.least_characters)
            verdicts[i] = Verdict::too_short;
        else if (!options.keep_duplicates && !seen.insert(records[i].hash).second)
            verdicts[i] = Verdict::duplicate;
        else if (options.near_duplicates > 0 && near.is_like_a_kept_one(i))
            verdicts[i] = Verdict::near_duplicate;
    }
    return verdicts;
}

} // namespace tessera
