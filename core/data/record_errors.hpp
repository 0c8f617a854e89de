// SPDX-License-Identifier: Apache-2.0
// What happens to a record or a file that is not right: data.on_error, the same for every reader.
#pragma once

#include "core/data/data_error.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct SkippedRecords {
    std::string kind; // "row", "file", "token", "pair", "image", "pair of files"
    std::int64_t count = 0;
    std::string first; // the sentence that would have ended the run
};

// Something that is told of the data, and that nothing was left out for: "missing values of 'x'".
struct DataFinding {
    std::string what;
    std::int64_t count = 0;
};

class RecordErrors {
public:
    explicit RecordErrors(bool skip) : skip_(skip) {}

    // Runs `work`; where it throws DataError, counts and goes on, or throws on. False: it was skipped.
    template <class Work> bool attempt(const std::string& kind, const Work& work) {
        try {
            work();
            return true;
        } catch (const DataError& error) {
            if (!skip_) throw;
            count(kind, error.what());
            return false;
        }
    }
    bool skips() const { return skip_; }
    void count(const std::string& kind, const std::string& sentence) {
        for (SkippedRecords& known : skipped_)
            if (known.kind == kind) {
                ++known.count;
                return;
            }
        skipped_.push_back({kind, 1, sentence});
    }
    const std::vector<SkippedRecords>& skipped() const { return skipped_; }

    void note(const std::string& what) {
        for (DataFinding& known : findings_)
            if (known.what == what) {
                ++known.count;
                return;
            }
        findings_.push_back({what, 1});
    }
    const std::vector<DataFinding>& findings() const { return findings_; }

private:
    bool skip_;
    std::vector<SkippedRecords> skipped_; // by kind, in the order of the first
    std::vector<DataFinding> findings_;   // likewise
};

} // namespace tessera
