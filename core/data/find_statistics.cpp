// SPDX-License-Identifier: Apache-2.0
// All samples read once: those of the training part for statistics, all of them for what cleaning counts.
#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/stored_statistics.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>

namespace tessera {
namespace {

using SampleHash = std::array<std::uint64_t, 2>;

std::string as_bytes(const std::vector<SampleHash>& hashes) {
    return {reinterpret_cast<const char*>(hashes.data()), hashes.size() * sizeof(SampleHash)};
}

std::vector<SampleHash> gathered(const std::vector<SampleHash>& own, const Workers& workers) {
    std::vector<SampleHash> all;
    for (const std::string& bytes : workers.gather(as_bytes(own))) {
        const std::size_t before = all.size();
        all.resize(before + bytes.size() / sizeof(SampleHash));
        std::memcpy(all.data() + before, bytes.data(), bytes.size());
    }
    std::ranges::sort(all);
    return all;
}

// Those that were there before.
std::int64_t count_duplicates(const std::vector<SampleHash>& sorted) {
    std::int64_t count = 0;
    for (std::size_t i = 1; i < sorted.size(); ++i)
        count += sorted[i] == sorted[i - 1] ? 1 : 0;
    return count;
}

std::int64_t count_common(const std::vector<SampleHash>& some, const std::vector<SampleHash>& sorted) {
    return std::ranges::count_if(some,
                                 [&](const SampleHash& hash) { return std::ranges::binary_search(sorted, hash); });
}

// Samples of a share, one after the other.
class Walk {
public:
    explicit Walk(const Dataset& dataset)
        : dataset_(dataset), width_(static_cast<std::size_t>(statistics_width(dataset.stored_shape()))),
          numbers_(static_cast<std::size_t>(dataset.stored_shape().count())),
          target_(target().shape.count() * bytes_of(target().dtype)) {}

    std::size_t width() const { return width_; }

    // Adds the sample to `hashes`, and its rows to `spread`, where there is one; or counts it as broken.
    void read(Split split, std::int64_t sample, std::vector<SampleHash>& hashes, Spread* spread) {
        try {
            dataset_.read_stored(split, sample, numbers_, {target_.data(), target().shape, target().dtype});
        } catch (const DataError& error) {
            if (broken_++ == 0) first_ = error.what();
            return;
        }
        hashes.push_back(hash());
        for (std::size_t row = 0; spread != nullptr && row < numbers_.size(); row += width_)
            spread->add(std::span(numbers_).subspan(row, width_));
    }

    std::int64_t broken() const { return broken_; }
    const std::string& first() const { return first_; }

private:
    const Field& target() const { return dataset_.form().fields.back(); }

    SampleHash hash() const {
        SampleHash found{};
        for (std::uint64_t seed = 0; seed < found.size(); ++seed)
            found[seed] = short_hash(numbers_.data(), numbers_.size() * sizeof(double),
                                     short_hash(target_.data(), static_cast<std::size_t>(target_.bytes()), seed));
        return found;
    }

    const Dataset& dataset_;
    std::size_t width_;
    std::vector<double> numbers_;
    Buffer target_;
    std::int64_t broken_ = 0;
    std::string first_;
};

// The nodes of all ranks put together: one is left.
Spread whole(const std::vector<SpreadNode>& own, std::size_t width, const Workers& workers) {
    std::vector<SpreadNode> nodes;
    for (const std::string& bytes : workers.gather(nodes_as_bytes(own)))
        add_nodes_of_bytes(bytes, width, nodes);
    return std::move(nodes.at(0).spread);
}

// What each rank has found broken, and the first of it.
std::int64_t count_broken(const Walk& walk, const Workers& workers, std::string& first) {
    std::int64_t count = 0;
    for (const std::string& found : workers.gather(fmt::format("{} {}", walk.broken(), walk.first()))) {
        const std::int64_t of_rank = std::stoll(found);
        if (of_rank > 0 && first.empty()) first = found.substr(found.find(' ') + 1);
        count += of_rank;
    }
    return count;
}

} // namespace

std::vector<std::string> statistics_names(const SampleForm& form) {
    if (!form.feature_names.empty()) return form.feature_names;
    const Shape& shape = form.fields[0].shape;
    if (shape.rank() != 3) return {};
    if (shape[2] == 3) return {"red", "green", "blue"};
    return {};
}

FoundStatistics find_statistics(const DatasetOptions& options, const Workers& workers) {
    DatasetOptions own = options;
    own.statistics = no_change();
    own.records_later = !options.skip_errors; // they are found below, each rank its share
    own.skip_errors = true;                   // all of it is counted
    const std::unique_ptr<Dataset> dataset = open_dataset(own);
    if (dataset->statistics() == nullptr)
        throw ConfigError(fmt::format("the reader '{}' normalises nothing: of texts `tessera data prepare --to FOLDER "
                                      "FILES` makes tokens",
                                      options.reader));
    Walk walk(*dataset);
    const auto samples = dataset->samples(Split::train), others = dataset->samples(Split::validation);
    std::vector<SampleHash> train, validation;
    std::vector<SpreadNode> nodes;
    const Workers::Share blocks = workers.share_of(statistics_blocks);
    for (auto block = static_cast<std::int64_t>(blocks.begin); block < static_cast<std::int64_t>(blocks.end); ++block) {
        SpreadNode node{0, block, Spread(walk.width())};
        for (std::int64_t i = samples * block / statistics_blocks; i < samples * (block + 1) / statistics_blocks; ++i)
            walk.read(Split::train, i, train, &node.spread);
        add_node(nodes, std::move(node));
    }
    const Workers::Share rest = workers.share_of(static_cast<std::size_t>(others));
    for (std::size_t i = rest.begin; i < rest.end; ++i)
        walk.read(Split::validation, static_cast<std::int64_t>(i), validation, nullptr);

    FoundStatistics found;
    StoredStatistics& stored = found.stored;
    for (const SkippedRecords& skipped : dataset->skipped()) {
        stored.counts.push_back({fmt::format("left out: {}", skipped.kind), skipped.count});
        if (found.broken.empty()) found.broken = skipped.first;
    }
    std::string unreadable;
    const std::int64_t broken = count_broken(walk, workers, unreadable);
    if (broken > 0) {
        found.broken = unreadable;
        found.readable = options.reader == "hdf5"; // a run that skips leaves such samples out, as is done here
    }
    stored.counts.push_back({"broken samples", broken});
    for (const DataFinding& finding : dataset->findings())
        stored.counts.push_back(finding);
    const Spread spread = whole(nodes, walk.width(), workers);
    if (spread.count == 0) throw DataError(found.broken);
    stored.statistics = spread.statistics();
    const std::vector<SampleHash> all = gathered(train, workers), others_all = gathered(validation, workers);
    stored.counts.push_back({"duplicates in the training part", count_duplicates(all)});
    stored.counts.push_back({"samples of the validation part that training has, too", count_common(others_all, all)});
    stored.names = statistics_names(dataset->form());
    stored.made_with = made_with(options);
    stored.sources = look_at_files(options, true, workers);
    stored.training = samples;
    stored.validation = others;
    return found;
}

} // namespace tessera
