// SPDX-License-Identifier: Apache-2.0
// Windows are decoded side by side, as the text has them: a character may lie across two.
#include "core/run/bits_per_byte.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <numbers>
#include <span>

namespace tessera {
namespace {

// A rank decodes so many at once, whatever the number of ranks: the cuts between them are always at the same places.
constexpr std::int64_t tokens_at_once = std::int64_t{1} << 18;

// Of these windows, joined.
std::size_t bytes_of(const Dataset& dataset, std::span<const std::int64_t> windows) {
    const SampleForm& form = dataset.form();
    const auto length = static_cast<std::size_t>(form.units);
    std::vector<std::int32_t> tokens(length), targets(windows.size() * length);
    for (std::size_t i = 0; i < windows.size(); ++i)
        dataset.read(Split::validation, windows[i],
                     std::array{View(tokens.data(), form.fields[0].shape, DType::i32),
                                View(targets.data() + i * length, form.fields[1].shape, DType::i32)});
    return dataset.tokenizer()->decode(targets).size();
}

// In two words: views have no 64-bit type.
std::int64_t sum_over(std::int64_t own, Communicator& all, Stream& host) {
    const std::array<std::int32_t, 2> mine{static_cast<std::int32_t>(own >> 31),
                                           static_cast<std::int32_t>(own & 0x7fffffff)};
    std::vector<std::int32_t> words(2 * static_cast<std::size_t>(all.size()));
    all.all_gather(host, ConstView{mine.data(), {1, 2}, DType::i32}, View(words.data(), {all.size(), 2}, DType::i32));
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < words.size(); i += 2)
        sum += (static_cast<std::int64_t>(words[i]) << 31) | words[i + 1];
    return sum;
}

} // namespace

std::int64_t text_bytes(const Dataset& dataset, const SampleOrder& order, std::int64_t samples, Communicator& all,
                        Stream& host) {
    const SampleForm& form = dataset.form();
    if (dataset.tokenizer() == nullptr || !form.is_text() || form.leaves_out || form.fields.size() != 2)
        throw ConfigError("metrics.evaluate: 'bits_per_byte' wants windows of a text whose tokenizer is known");
    std::vector<std::int64_t> windows;
    for (std::int64_t i = 0; i < samples; ++i)
        windows.push_back(order.sample(i));
    std::ranges::sort(windows);
    const auto each = static_cast<std::size_t>(std::max<std::int64_t>(1, tokens_at_once / form.units));
    const std::size_t pieces = (windows.size() + each - 1) / each;
    const auto rank = static_cast<std::size_t>(all.rank()), ranks = static_cast<std::size_t>(all.size());
    std::size_t own = 0;
    for (std::size_t piece = pieces * rank / ranks; piece < pieces * (rank + 1) / ranks; ++piece) {
        const std::size_t at = piece * each;
        own += bytes_of(dataset, std::span(windows).subspan(at, std::min(each, windows.size() - at)));
    }
    return sum_over(static_cast<std::int64_t>(own), all, host);
}

double bits_per_byte(double loss, std::int64_t tokens, std::int64_t bytes) {
    return loss * static_cast<double>(tokens) / (std::numbers::ln2 * static_cast<double>(bytes));
}

} // namespace tessera
