// SPDX-License-Identifier: Apache-2.0
/// @file simplex_projection.hpp
/// @brief simplex_projection: the nearest weights that are not negative and add up to 1.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief min ‖w − x‖² over w ≥ 0, Σw = 1, in place: w_i = max(x_i − τ, 0) with the τ that makes the sum 1, found by sorting. x is finite.
///
/// Cost n log n. Host memory only. Source: Held, Wolfe & Crowder 1974; Duchi et al. 2008, figure 1.
inline void simplex_projection(std::span<double> x) {
  if (x.empty()) return;
  std::vector<double> sorted(x.begin(), x.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const double top = sorted.front();  // everything below top − 1 becomes 0; subtracting it first keeps the digits of large numbers
  double sum = 0.0, shift = 0.0;
  for (size_t count = 0; count < sorted.size(); ++count) {
    const double value = sorted[count] - top;
    sum += value;
    const double candidate = (sum - 1.0) / static_cast<double>(count + 1);
    if (value <= candidate) break;
    shift = candidate;
  }
  double total = 0.0;
  for (double& value : x) total += value = std::max((value - top) - shift, 0.0);
  for (double& value : x) value /= total;
}

}  // namespace htl
