// SPDX-License-Identifier: Apache-2.0
// Separate samples of one shape, side by side in memory: images and rows of tables, whoever put them there.
#pragma once

#include "core/data/dataset.hpp"

#include <array>
#include <mutex>
#include <variant>

namespace tessera {

// Of N samples: what is looked at, and a class number or K numbers each, or both. Counts are exact multiples of N.
struct SampleArrays {
    std::int64_t count = 0; // N
    std::variant<std::vector<std::uint8_t>, std::vector<float>> inputs;
    std::variant<std::vector<std::int32_t>, std::vector<float>> targets;
    std::vector<float> numbers{}; // beside class numbers; empty: none
};

// Inputs are normalised by what they are given for it, or by mean and standard deviation of the training part: of bytes
// by one for all elements, of floats by one for each.
class ArraySamples final : public Dataset {
public:
    // `form` has the inputs (f32), which lie side by side in a sample, then the targets, one field or, with `numbers`,
    // two. Where there is no validation part, the last `fraction`
    // of the training part is it. `name` stands for the data in messages. Throws DataError when nothing is left to
    // train on.
    ArraySamples(SampleForm form, std::string_view name, SampleArrays train, SampleArrays validation, double fraction,
                 std::vector<SkippedRecords> skipped = {}, std::optional<InputStatistics> statistics = {},
                 std::vector<DataFinding> findings = {});

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return part(split).count; }
    void read(Split split, std::int64_t sample, std::span<const View> views) const override;
    void expect(Split split, std::int64_t sample) const override;
    const Tokenizer* tokenizer() const override { return nullptr; }
    std::vector<SkippedRecords> skipped() const override { return skipped_; }
    std::vector<DataFinding> findings() const override { return findings_; }
    float black(std::int64_t, std::int64_t channel) const override { return normalisers_[0].black(channel); }
    const InputStatistics* statistics() const override { return &statistics_; }
    Shape stored_shape() const override;
    void read_stored(Split split, std::int64_t sample, std::span<double> numbers, const View& target) const override;
    std::string fingerprint() const override;

private:
    const SampleArrays& part(Split split) const { return parts_[static_cast<std::size_t>(split)]; }
    InputStatistics find_statistics() const;
    const SampleArrays& checked(Split split, std::int64_t sample) const;
    std::int64_t elements() const { return elements_; } // of all inputs of a sample
    void read_target(const SampleArrays& from, std::int64_t sample, std::size_t field, const View& target) const;

    SampleForm form_;
    std::array<SampleArrays, 2> parts_; // by Split
    std::vector<SkippedRecords> skipped_;
    std::vector<DataFinding> findings_;
    bool given_statistics_;
    std::size_t inputs_;    // fields
    std::int64_t elements_; // of all of them
    InputStatistics statistics_;
    std::vector<Normaliser> normalisers_; // of each input
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

} // namespace tessera
