// SPDX-License-Identifier: Apache-2.0
/// @file sorted_quantile.hpp
/// @brief A quantile of sorted numbers: the one definition that transforms, losses and embeddings share.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// The quantile at a level in [0, 1] of sorted numbers, at least one: linear between order statistics.
inline double quantile_of(const double* sorted, size_t count, double level) {
  const double at = level * static_cast<double>(count - 1), below = std::floor(at);
  const size_t index = std::min(static_cast<size_t>(below), count - 1), next = std::min(index + 1, count - 1);
  return std::lerp(sorted[index], sorted[next], at - below);
}
inline double quantile_of(const std::vector<double>& sorted, double level) { return quantile_of(sorted.data(), sorted.size(), level); }

}  // namespace htl::inline v0_1_0::detail
