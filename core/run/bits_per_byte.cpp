// SPDX-License-Identifier: Apache-2.0
// Windows are decoded side by side, as the text has them: a character may lie across two.
#include "core/run/bits_per_byte.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <numbers>

namespace tessera {
namespace {

constexpr std::size_t tokens_at_once = std::size_t{1} << 22;

} // namespace

double bytes_per_token(const Dataset& dataset, const SampleOrder& order, std::int64_t samples) {
    const SampleForm& form = dataset.form();
    if (dataset.tokenizer() == nullptr || !form.is_text() || form.leaves_out || form.fields.size() != 2)
        throw ConfigError("metrics.evaluate: 'bits_per_byte' wants windows of a text whose tokenizer is known");
    std::vector<std::int64_t> windows;
    for (std::int64_t i = 0; i < samples; ++i)
        windows.push_back(order.sample(i));
    std::ranges::sort(windows);
    const auto length = static_cast<std::size_t>(form.units);
    std::vector<std::int32_t> tokens(length), targets;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < windows.size(); ++i) {
        targets.resize(targets.size() + length);
        dataset.read(Split::validation, windows[i],
                     std::array{View(tokens.data(), form.fields[0].shape, DType::i32),
                                View(targets.data() + targets.size() - length, form.fields[1].shape, DType::i32)});
        if (targets.size() < tokens_at_once && i + 1 < windows.size()) continue;
        bytes += dataset.tokenizer()->decode(targets).size();
        targets.clear();
    }
    return static_cast<double>(bytes) / static_cast<double>(windows.size() * length);
}

double bits_per_byte(double loss, double bytes_per_token) { return loss / std::numbers::ln2 / bytes_per_token; }

} // namespace tessera
