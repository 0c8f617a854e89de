// SPDX-License-Identifier: Apache-2.0
// Who is far from the others: of ranks, hosts or links that should be alike. Pure.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace tessera {

double median(std::vector<double> values); // of an even number the mean of the middle two; NaN of none

enum class Worse { low, high }; // rates, or times

// The places of the values, all above 0, that are worse than the median by more than `factor` and by more than five
// times the others' usual distance from it (the median distance, on a scale of factors, as a normal distribution's
// standard deviation): one slow among many alike is found, and noise that all have is not. Worse by a factor of 2.5 is
// always found. Of two values the worse is, when it is so by the square of `factor`; one alone never is.
std::vector<std::size_t> outliers(std::span<const double> values, Worse worse, double factor);

} // namespace tessera
