// SPDX-License-Identifier: Apache-2.0
/// @file min_max.hpp
/// @brief MinMaxTransform: the training labels' range onto [0, 1].
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/label_transform.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief z = (y − low) / (high − low), with the least and the largest training label. A constant label has the range 1.
///
/// Labels beyond the training range give z outside [0, 1]; nothing is clipped. The inverse is exact, and that of a mean is the mean.
struct MinMaxTransform {
  double low = 0.0;    ///< in the label's unit
  double range = 0.0;  ///< high − low, in the label's unit; 0 = not fitted

  /// @brief "min_max"
  std::string name() const { return "min_max"; }
  /// @brief A copy with the range of the values.
  MinMaxTransform fitted(const at::Tensor& values) const {
    const double least = values.min().item<double>(), width = values.max().item<double>() - least;
    HTL_CHECK(std::isfinite(width), "htl::min_max: the labels' range is beyond what a double holds; use z_score(), or mask the outliers");
    return {least, width > 0.0 ? width : 1.0};
  }
  /// @brief Whether statistics are there.
  bool is_fitted() const { return range > 0.0; }
  /// @brief (y − low) / (high − low)
  at::Tensor apply(const at::Tensor& values) const { return values.sub(low).div(range); }
  /// @brief z · (high − low) + low
  at::Tensor inverse(const at::Tensor& values) const { return values.mul(range).add(low); }
  /// @brief low, range
  Options statistics() const { return {{"low", low}, {"range", range}}; }
  /// @brief A copy with given low and range.
  MinMaxTransform with_statistics(const Options& numbers) const {
    const double least = numbers["low"].number(), width = numbers["range"].number();
    HTL_CHECK(width > 0.0 && std::isfinite(width) && std::isfinite(least), "htl::min_max: expected a finite low and a finite range > 0, got low ", least,
              ", range ", width);
    return {least, width};
  }
};

/// @brief z = (y − low) / (high − low).
inline AnyLabelTransform min_max() { return MinMaxTransform{}; }

}  // namespace htl
