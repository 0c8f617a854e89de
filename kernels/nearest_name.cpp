// SPDX-License-Identifier: Apache-2.0
// Edit distance (Damerau-Levenshtein, adjacent swaps count one) and the sentence built on it.
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::size_t longest_name = 200;
constexpr std::ptrdiff_t most_listed = 100;

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i)
        for (std::size_t j = 0; j <= b.size(); ++j) {
            if (i == 0 || j == 0) {
                cost[i][j] = i + j;
                continue;
            }
            const std::size_t substitute = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, substitute});
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
        }
    return cost[a.size()][b.size()];
}

} // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string_view>& known) {
    if (name.size() > longest_name) return ""; // of a hostile file: a distance costs the product of both lengths
    std::string_view nearest;
    std::size_t smallest = std::max<std::size_t>(2, name.size() / 2) + 1;
    for (const std::string_view candidate : known) {
        const std::size_t longer = std::max(name.size(), candidate.size());
        if (longer - std::min(name.size(), candidate.size()) >= smallest) continue;
        const std::size_t distance = edit_distance(name, candidate);
        if (distance < smallest) {
            smallest = distance;
            nearest = candidate;
        }
    }
    return std::string(nearest);
}

std::string no_such_name(std::string_view kind, std::string_view name, const std::vector<std::string_view>& known) {
    const std::string nearest = nearest_name(name, known);
    const std::string_view end = name.size() > longest_name ? "…" : "";
    name = name.substr(0, longest_name);
    if (!nearest.empty()) return fmt::format("no {} named '{}'; did you mean '{}'?", kind, name, nearest);
    const std::vector<std::string_view> some(known.begin(),
                                             known.begin() + std::ssize(known) -
                                                 std::max<std::ptrdiff_t>(0, std::ssize(known) - most_listed));
    return fmt::format("no {} named '{}{}'; there are: {}{}", kind, name, end, fmt::join(some, ", "),
                       some.size() < known.size() ? ", …" : "");
}

} // namespace tessera
