// SPDX-License-Identifier: Apache-2.0
// Statistics are sums in the order of the samples, the same on every rank.
#include "core/data/array_samples.hpp"

#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fmt/format.h>

namespace tessera {
namespace {

// Moves elements [begin, …) to a vector of its own.
template <class T> std::vector<T> cut_off(std::vector<T>& values, std::int64_t begin) {
    std::vector<T> rest(values.begin() + begin, values.end());
    values.resize(static_cast<std::size_t>(begin));
    return rest;
}

// floor((1 - fraction) * count) samples stay.
SampleArrays split_by_fraction(SampleArrays& all, double fraction) {
    if (!(fraction >= 0 && fraction < 1))
        throw ConfigError(fmt::format("validation_fraction is {}, expected from 0 to less than 1", fraction));
    const auto kept = static_cast<std::int64_t>(std::floor((1 - fraction) * static_cast<double>(all.count)));
    SampleArrays rest;
    rest.count = all.count - kept;
    const auto cut = [&](auto& values) {
        const std::int64_t each = static_cast<std::int64_t>(values.size()) / std::max<std::int64_t>(all.count, 1);
        return cut_off(values, kept * each);
    };
    std::visit([&](auto& values) { rest.inputs = cut(values); }, all.inputs);
    std::visit([&](auto& values) { rest.targets = cut(values); }, all.targets);
    rest.numbers = cut(all.numbers);
    all.count = kept;
    return rest;
}

// Of elements [begin, begin + count), where each has its own.
InputStatistics part_of(const InputStatistics& all, std::size_t begin, std::size_t count) {
    if (all.means.size() == 1) return all;
    const auto cut = [&](const std::vector<double>& values) {
        const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
        return std::vector<double>(first, first + static_cast<std::ptrdiff_t>(count));
    };
    return {cut(all.means), cut(all.deviations)};
}

} // namespace

ArraySamples::ArraySamples(SampleForm form, std::string_view name, SampleArrays train, SampleArrays validation,
                           double fraction, std::vector<SkippedRecords> skipped,
                           std::optional<InputStatistics> statistics, std::vector<DataFinding> findings)
    : form_(std::move(form)), parts_{std::move(train), std::move(validation)}, skipped_(std::move(skipped)),
      findings_(std::move(findings)), given_statistics_(statistics.has_value()),
      inputs_(form_.fields.size() - (parts_[0].numbers.empty() ? 1 : 2)), elements_(0) {
    for (std::size_t i = 0; i < inputs_; ++i)
        elements_ += form_.fields[i].shape.count();
    if (parts_[1].count == 0) parts_[1] = split_by_fraction(parts_[0], fraction);
    if (parts_[0].count == 0)
        throw DataError(fmt::format("{}: no sample is left to train on: {} in all, {} for validation", name,
                                    parts_[1].count, parts_[1].count));
    statistics_ = statistics ? *std::move(statistics) : find_statistics();
    Normaliser(statistics_, stored_shape(), std::string(name)); // refuses those that do not fit
    std::size_t begin = 0;
    for (std::size_t i = 0; i < inputs_; ++i) {
        const auto count = static_cast<std::size_t>(form_.fields[i].shape.count());
        normalisers_.emplace_back(inputs_ == 1 ? statistics_ : part_of(statistics_, begin, count),
                                  form_.fields[i].shape, std::string(name));
        begin += count;
    }
}

Shape ArraySamples::stored_shape() const { return inputs_ == 1 ? form_.fields[0].shape : Shape{elements_}; }

InputStatistics ArraySamples::find_statistics() const {
    if (const auto* bytes = std::get_if<std::vector<std::uint8_t>>(&parts_[0].inputs)) {
        std::int64_t sum = 0, squares = 0; // exact
        for (const std::int64_t value : *bytes) {
            sum += value;
            squares += value * value;
        }
        const auto count = static_cast<double>(bytes->size());
        const double mean = static_cast<double>(sum) / count;
        const double variance = static_cast<double>(squares) / count - mean * mean;
        return {{mean}, {std::sqrt(std::max(variance, 0.0))}};
    }
    const auto& values = std::get<std::vector<float>>(parts_[0].inputs);
    const auto features = static_cast<std::size_t>(elements());
    InputStatistics found{std::vector<double>(features), std::vector<double>(features)};
    const auto count = static_cast<double>(parts_[0].count);
    for (std::size_t i = 0; i < values.size(); ++i)
        found.means[i % features] += static_cast<double>(values[i]) / count;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const double distance = static_cast<double>(values[i]) - found.means[i % features];
        found.deviations[i % features] += distance * distance / count;
    }
    for (double& deviation : found.deviations)
        deviation = std::sqrt(deviation);
    return found;
}

const SampleArrays& ArraySamples::checked(Split split, std::int64_t sample) const {
    const SampleArrays& from = part(split);
    if (sample < 0 || sample >= from.count)
        throw InternalError(fmt::format("dataset: sample {} of {}", sample, from.count));
    return from;
}

void ArraySamples::read_target(const SampleArrays& from, std::int64_t sample, std::size_t field,
                               const View& target) const {
    const std::int64_t wanted = form_.fields[field].shape.count();
    const auto copy = [&](const auto& values) {
        std::memcpy(target.memory(), values.data() + sample * wanted,
                    static_cast<std::size_t>(wanted) * sizeof values[0]);
    };
    field == inputs_ ? std::visit(copy, from.targets) : copy(from.numbers);
}

void ArraySamples::read(Split split, std::int64_t sample, std::span<const View> views) const {
    const SampleArrays& from = checked(split, sample);
    for (std::size_t i = 0; i < form_.fields.size(); ++i)
        if (views.size() != form_.fields.size() || views[i].shape != form_.fields[i].shape ||
            views[i].dtype != form_.fields[i].dtype)
            throw InternalError("dataset: a view that no field asks for");
    std::visit(
        [&](const auto& values) {
            const auto* next = values.data() + sample * elements();
            for (std::size_t i = 0; i < inputs_; next += views[i++].count())
                normalisers_[i].apply(next, views[i]);
        },
        from.inputs);
    for (std::size_t i = inputs_; i < form_.fields.size(); ++i)
        read_target(from, sample, i, views[i]);
}

// Samples in a shuffled order lie anywhere in memory: most of the time of reading one is waiting for it. (A function
// that does nothing but prefetch is one without effect to g++ 12, which leaves out calls of it: the loop stands here.)
void ArraySamples::expect(Split split, std::int64_t sample) const {
    constexpr std::size_t line = 64, most = 4096; // bytes: of more, the machine itself fetches the rest ahead
    const SampleArrays& from = part(split);
    if (sample < 0 || sample >= from.count) return;
    const auto bytes_of_sample = [&](const auto& values) {
        const std::size_t each = values.size() / static_cast<std::size_t>(from.count);
        return std::as_bytes(std::span(values).subspan(static_cast<std::size_t>(sample) * each, each));
    };
    for (const std::span<const std::byte> bytes :
         {std::visit(bytes_of_sample, from.inputs), std::visit(bytes_of_sample, from.targets)})
        for (std::size_t at = 0; at < std::min(bytes.size(), most); at += line)
            __builtin_prefetch(bytes.data() + at);
}

void ArraySamples::read_stored(Split split, std::int64_t sample, std::span<double> numbers, const View& target) const {
    const SampleArrays& from = checked(split, sample);
    const std::int64_t begin = sample * elements();
    std::visit([&](const auto& values) { std::copy_n(values.begin() + begin, numbers.size(), numbers.begin()); },
               from.inputs);
    read_target(from, sample, form_.fields.size() - 1, target);
}

std::string ArraySamples::fingerprint() const {
    std::call_once(hashed_, [&] {
        ContentHash hash;
        hash.add(form_.classes);
        if (given_statistics_) {
            hash.add(std::span<const double>(statistics_.means));
            hash.add(std::span<const double>(statistics_.deviations));
        }
        for (const SampleArrays& part : parts_) {
            hash.add(part.count);
            std::visit([&](const auto& values) { hash.add(std::span(values)); }, part.inputs);
            std::visit([&](const auto& values) { hash.add(std::span(values)); }, part.targets);
            if (!part.numbers.empty()) hash.add(std::span(part.numbers));
        }
        fingerprint_ = hash.text();
    });
    return fingerprint_;
}

} // namespace tessera
