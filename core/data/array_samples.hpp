// SPDX-License-Identifier: Apache-2.0
// Separate samples of one shape, side by side in memory: images and rows of tables, whoever put them there.
#pragma once

#include "core/data/dataset.hpp"

#include <array>
#include <mutex>
#include <variant>

namespace tessera {

// Of N samples: what is looked at, and a class number or K numbers each. Counts are exact multiples of N.
struct SampleArrays {
    std::int64_t count = 0; // N
    std::variant<std::vector<std::uint8_t>, std::vector<float>> inputs;
    std::variant<std::vector<std::int32_t>, std::vector<float>> targets;
};

// Inputs are normalised: the mean of the training part is taken off, and the rest divided by its standard deviation; of
// bytes by one for all elements, of floats by one for each. What never varies becomes 0.
class ArraySamples final : public Dataset {
public:
    // `form` has two fields, the inputs (f32) and the targets. Where there is no validation part, the last `fraction`
    // of the training part is it. `name` stands for the data in messages. Throws DataError when nothing is left to
    // train on.
    ArraySamples(SampleForm form, std::string_view name, SampleArrays train, SampleArrays validation, double fraction,
                 std::vector<SkippedRecords> skipped = {});

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return part(split).count; }
    void read(Split split, std::int64_t sample, std::span<const View> views) const override;
    const Tokenizer* tokenizer() const override { return nullptr; }
    std::vector<SkippedRecords> skipped() const override { return skipped_; }
    float black(std::int64_t) const override { return static_cast<float>(-means_[0] * factors_[0]); }
    std::string fingerprint() const override;

private:
    const SampleArrays& part(Split split) const { return parts_[static_cast<std::size_t>(split)]; }
    void find_statistics();

    SampleForm form_;
    std::array<SampleArrays, 2> parts_; // by Split
    std::vector<SkippedRecords> skipped_;
    std::vector<double> means_, factors_; // one, or one of each element
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

} // namespace tessera
