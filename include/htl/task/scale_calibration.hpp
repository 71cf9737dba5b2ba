// SPDX-License-Identifier: Apache-2.0
/// @file scale_calibration.hpp
/// @brief ScaleCalibration: one factor that makes the mean prediction the mean label.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/calibrator.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief y' = s ŷ with s = Σ w y / Σ w ŷ: the total is right, as a budget needs it. For regressions; a probability could leave [0, 1].
struct ScaleCalibration {
  double factor = 0.0;  ///< s; 0 = not fitted

  /// @brief "scale"
  std::string name() const { return "scale"; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief A copy with the factor.
  /// @throws c10::ValueError unless both totals are > 0
  ScaleCalibration fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const {
    const double predicted = prediction.mul(weight).sum().item<double>(), observed = label.mul(weight).sum().item<double>();
    HTL_CHECK(predicted > 0.0 && observed > 0.0 && std::isfinite(observed / predicted) && observed / predicted > 0.0,
              "htl::ScaleCalibration: expected sums of predictions and labels > 0, got ", predicted, " and ", observed, "; use IsotonicCalibration");
    return {observed / predicted};
  }
  /// @brief Whether there is a factor.
  bool is_fitted() const { return factor > 0.0; }
  /// @brief s ŷ
  at::Tensor apply(const at::Tensor& prediction) const { return prediction.mul(factor); }
  /// @brief None.
  Options parameters() const { return {}; }
  /// @brief factor
  Options statistics() const { return {{"factor", factor}}; }
  /// @brief A copy with a given factor.
  ScaleCalibration with_statistics(const Options& numbers) const {
    const double given = numbers["factor"].number();
    HTL_CHECK(given > 0.0 && std::isfinite(given), "htl::ScaleCalibration: expected a finite factor > 0, got ", given);
    return {given};
  }
};

}  // namespace htl
