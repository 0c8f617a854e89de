// SPDX-License-Identifier: Apache-2.0
// Median and median absolute deviation (Leys et al. 2013), of logarithms: half of the values may be wild without moving
// them far.
#include "core/run/outliers.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tessera {
namespace {

constexpr double normal_scale = 1.4826; // of the median distance to a normal distribution's standard deviation
constexpr double deviations = 5;
constexpr double rounding = 1e-9;
constexpr double always = 2.5; // of few values that differ by themselves the deviations would hide any

} // namespace

double median(std::vector<double> values) {
    if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    const double upper = *middle;
    return values.size() % 2 == 1 ? upper : (*std::max_element(values.begin(), middle) + upper) / 2;
}

std::vector<std::size_t> outliers(std::span<const double> values, Worse worse, double factor) {
    std::vector<double> badness;
    for (const double value : values) {
        const double logarithm = std::log(std::max(value, std::numeric_limits<double>::min()));
        badness.push_back(worse == Worse::low ? -logarithm : logarithm);
    }
    std::vector<std::size_t> found;
    if (values.size() < 2) return found;
    double center = median(badness), most = 0;
    if (values.size() == 2) {
        center = std::min(badness[0], badness[1]);
        most = 2 * std::log(factor);
    } else {
        std::vector<double> distances;
        for (const double one : badness)
            distances.push_back(std::abs(one - center));
        most = std::max(std::log(factor), std::min(deviations * normal_scale * median(distances), std::log(always)));
    }
    for (std::size_t i = 0; i < badness.size(); ++i)
        if (badness[i] - center > most + rounding) found.push_back(i);
    return found;
}

} // namespace tessera
