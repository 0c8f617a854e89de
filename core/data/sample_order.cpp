// SPDX-License-Identifier: Apache-2.0
// A shuffled epoch is a Feistel network over the smallest power of two that holds it, walked until it lands inside
// (Black and Rogaway 2002): any place of the permutation without the ones before it.
#include "core/data/sample_order.hpp"

#include "core/data/data_error.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "kernels/random.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <fmt/format.h>
#include <string_view>

namespace tessera {
namespace {

constexpr std::array<std::string_view, 4> kind_names = {"random", "sequential", "shuffle", "stream"};
constexpr int rounds = 8; // 4 make a strong permutation of a large range (Luby and Rackoff); small ranges need more

// A bijection of [0, 2^bits), bits >= 2, different for each epoch. The two halves may differ by one bit; they take
// turns being changed by a random function of the other.
std::uint64_t feistel(RandomKey key, std::uint64_t epoch, int bits, std::uint64_t value) {
    const int low_bits = bits / 2;
    const std::uint64_t low_mask = (std::uint64_t{1} << low_bits) - 1;
    const std::uint64_t high_mask = (std::uint64_t{1} << (bits - low_bits)) - 1;
    std::uint64_t low = value & low_mask;
    std::uint64_t high = value >> low_bits;
    for (std::uint64_t round = 0; round < rounds; round += 2) {
        low ^= random_words(key, epoch, (round << 32) | high)[0] & low_mask;
        high ^= random_words(key, epoch, ((round + 1) << 32) | low)[0] & high_mask;
    }
    return (high << low_bits) | low;
}

// Place `position` of a random permutation of [0, count).
std::uint64_t permuted(RandomKey key, std::uint64_t epoch, std::uint64_t count, std::uint64_t position) {
    const int bits = std::max(2, static_cast<int>(std::bit_width(count - 1)));
    do // fewer than two turns on average: the power of two is below twice the count (but for the smallest counts)
        position = feistel(key, epoch, bits, position);
    while (position >= count);
    return position;
}

} // namespace

SampleOrder::SampleOrder(const SampleOrderOptions& options)
    : seed_(options.seed), samples_(options.samples), window_(options.window), streams_(options.streams),
      blocks_(options.blocks) {
    const auto name = std::find(kind_names.begin(), kind_names.end(), options.kind);
    if (name == kind_names.end())
        throw ConfigError(no_such_name("sample order", options.kind, {kind_names.begin(), kind_names.end()}));
    kind_ = static_cast<Kind>(name - kind_names.begin());
    if (!options.sources.empty()) {
        mix(options);
        return;
    }
    if (samples_ < 1) throw DataError("there are no samples to put in order: this part of the data is empty");
    if (window_ < 1) throw InternalError(fmt::format("sample order: a window of {} tokens", window_));
    if (streams_ < 1) throw InternalError(fmt::format("sample order: {} streams", streams_));
    if (blocks_.samples < 1 || blocks_.together < 1 || (blocks_.samples > 1 && window_ > 1))
        throw InternalError(fmt::format("sample order: blocks of {}, {} together, of windows of {}", blocks_.samples,
                                        blocks_.together, window_));
    const std::int64_t windows = (samples_ - 1) / window_ + 1;
    if (kind_ == Kind::stream && windows < streams_)
        throw DataError(
            fmt::format("the data has {} windows side by side, too few for {} streams (data.order), one for "
                        "each row of a step",
                        windows, streams_));
    // A shuffled epoch has one number of windows for any phase: floor(samples / window) fit from each.
    per_epoch_ = kind_ == Kind::sequential ? windows
                 : kind_ == Kind::stream   ? windows / streams_ * streams_
                                           : std::max<std::int64_t>(1, samples_ / window_);
}

void SampleOrder::mix(const SampleOrderOptions& options) {
    if (kind_ == Kind::stream) throw InternalError("sample order: streams of several sources");
    std::vector<std::int64_t> weights;
    for (const OrderedSource& source : options.sources) {
        const auto words = random_words(random_key(seed_, source.name), 0, 0);
        of_sources_.push_back(SampleOrder({.kind = options.kind,
                                           .seed = std::uint64_t{words[1]} << 32 | words[0],
                                           .samples = source.samples,
                                           .window = source.window,
                                           .blocks = source.blocks}));
        weights.push_back(source.weight);
        first_samples_.push_back(source.first);
        per_epoch_ += of_sources_.back().per_epoch();
    }
    mix_.emplace(std::move(weights));
}

SampleOrder::Place SampleOrder::place(std::int64_t index) const {
    if (!mix_) return {sample(index), index / per_epoch_, 0};
    const auto [source, number] = mix_->place(index);
    const SampleOrder& order = of_sources_[source];
    return {first_samples_[source] + order.sample(number), number / order.per_epoch_, source};
}

std::vector<SampleOrder::Progress> SampleOrder::progress(std::int64_t samples) const {
    const auto of = [](std::int64_t count, const SampleOrder& order) {
        return Progress{count, static_cast<double>(count) / static_cast<double>(order.per_epoch_)};
    };
    if (!mix_) return {of(samples, *this)};
    std::vector<Progress> all;
    const std::vector<std::int64_t> counts = mix_->counts(samples);
    for (std::size_t i = 0; i < counts.size(); ++i)
        all.push_back(of(counts[i], of_sources_[i]));
    return all;
}

std::int64_t SampleOrder::sample(std::int64_t index) const {
    if (index < 0) throw InternalError(fmt::format("sample order: index {}", index));
    if (mix_) return place(index).sample;
    switch (kind_) {
    case Kind::random:
        return static_cast<std::int64_t>(random_below(random_key(seed_, "random order"),
                                                      static_cast<std::uint64_t>(index),
                                                      static_cast<std::uint64_t>(samples_)));
    case Kind::sequential:
        return index % per_epoch_ * window_;
    case Kind::stream: {
        const std::int64_t steps = per_epoch_ / streams_;
        return (index % streams_ * steps + index / streams_ % steps) * window_;
    }
    case Kind::shuffle:
        return blocks_.samples > 1 ? shuffled_in_blocks(index / per_epoch_, index % per_epoch_)
                                   : shuffled(index / per_epoch_, index % per_epoch_);
    }
    throw InternalError("sample order: unknown kind");
}

std::int64_t SampleOrder::shuffled(std::int64_t epoch, std::int64_t position) const {
    const std::int64_t phases = std::min(window_, samples_ - (per_epoch_ - 1) * window_);
    const auto turn = static_cast<std::uint64_t>(epoch);
    const std::uint64_t phase =
        random_below(random_key(seed_, "epoch phase"), turn, static_cast<std::uint64_t>(phases));
    const std::uint64_t window = permuted(random_key(seed_, "epoch order"), turn,
                                          static_cast<std::uint64_t>(per_epoch_), static_cast<std::uint64_t>(position));
    return static_cast<std::int64_t>(phase) + static_cast<std::int64_t>(window) * window_;
}

// Blocks are put in places at random, and places cut into groups. One block may be partly filled: its place is drawn,
// and the others are permuted around it, so that it is known where each group begins.
std::int64_t SampleOrder::shuffled_in_blocks(std::int64_t epoch, std::int64_t position) const {
    const std::int64_t size = blocks_.samples, places = (samples_ - 1) / size + 1, lacking = places * size - samples_;
    const std::int64_t together = std::min(blocks_.together, places), groups = (places - 1) / together + 1;
    const auto turn = static_cast<std::uint64_t>(epoch);
    const auto last_place = static_cast<std::int64_t>(
        random_below(random_key(seed_, "place of the last block"), turn, static_cast<std::uint64_t>(places)));
    const std::int64_t group_of_last = last_place / together;
    const auto begin_of = [&](std::int64_t group) {
        return std::min(group * together, places) * size - (group > group_of_last ? lacking : 0);
    };
    const bool behind = position >= begin_of(group_of_last + 1);
    const std::int64_t group = (position + (behind ? lacking : 0)) / (together * size);
    const std::int64_t begin = begin_of(group), count = begin_of(group + 1) - begin;
    const auto mixed = static_cast<std::int64_t>(
        permuted(random_key(seed_, "order in groups"),
                 turn * static_cast<std::uint64_t>(groups) + static_cast<std::uint64_t>(group),
                 static_cast<std::uint64_t>(count), static_cast<std::uint64_t>(position - begin)));
    // Within its group the last block comes last, so that the others are whole.
    std::int64_t place = group * together + mixed / size;
    if (group == group_of_last) {
        const std::int64_t end = std::min((group + 1) * together, places);
        if (place == end - 1)
            place = last_place;
        else if (place >= last_place)
            ++place;
    }
    if (place == last_place) return (places - 1) * size + mixed % size;
    const auto among_others = static_cast<std::uint64_t>(place < last_place ? place : place - 1);
    const std::uint64_t block =
        permuted(random_key(seed_, "epoch order"), turn, static_cast<std::uint64_t>(places - 1), among_others);
    return static_cast<std::int64_t>(block) * size + mixed % size;
}

} // namespace tessera
