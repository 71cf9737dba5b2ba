// SPDX-License-Identifier: Apache-2.0
/// @file regression_error.hpp
/// @brief RegressionError: RMSE, MAE, and both over a named denominator.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What a normalised error is divided by. Papers differ and rarely say: name it beside each figure.
enum class Denominator {
  std,    ///< population standard deviation of the labels; NRMSE 1 = the constant mean
  mean,   ///< mean of the labels
  range,  ///< greatest minus least label
  rms     ///< root of the mean squared label
};

/// @brief "std", "mean", "range", "rms"
inline std::string to_string(Denominator denominator) {
  switch (denominator) {
    case Denominator::std:
      return "std";
    case Denominator::mean:
      return "mean";
    case Denominator::range:
      return "range";
    case Denominator::rms:
      return "rms";
  }
  return "unknown";
}
/// @brief The denominator of a name.
/// @throws c10::ValueError naming the nearest name
inline Denominator denominator_of(std::string_view name) {
  const std::vector<std::string> names = {"std", "mean", "range", "rms"};
  for (const Denominator known : {Denominator::std, Denominator::mean, Denominator::range, Denominator::rms})
    if (to_string(known) == name) return known;
  HTL_CHECK(false, "htl::denominator_of: unknown denominator \"", name, "\"; did you mean \"", nearest(name, names), "\"? Known: ", quoted(names));
}

/// @brief Errors of a regression in the label's unit, and normalised by statistics of the same labels.
///
/// With one denominator NRMSE ≥ NMAE always; the defaults (RMSE/std, MAE/mean) are the pair that the published figures of HTLNet fit.
/// **Device.** see metric.hpp. **Cost.** ten numbers in all; O(B) a batch. Means and variances are merged by Chan's formula, so a large offset costs no digits.
class RegressionError {
 public:
  /// @brief Adds a batch.
  /// @param prediction [B] in the label's unit
  /// @param label with mask and weight
  /// @throws c10::ValueError on a wrong shape, and naming the row on a prediction or label that is not finite, or a bad weight
  void add(const at::Tensor& prediction, const Label& label) {
    RegressionError batch;
    detail::for_each_observed("htl::RegressionError", prediction, label, [&](int64_t, double guess, double value, double weight) {
      const double error = guess - value;
      batch.squared_error_ += weight * error * error;
      batch.absolute_error_ += weight * std::abs(error);
      batch.prediction_ += weight * guess;
      batch.weight_ += weight;
      const double delta = value - batch.mean_;  // West 1979
      batch.mean_ += delta * weight / batch.weight_;
      batch.scatter_ += weight * delta * (value - batch.mean_);
      batch.least_ = std::min(batch.least_, value);
      batch.greatest_ = std::max(batch.greatest_, value);
    });
    merge(batch);
  }
  /// @brief Adds what another accumulator has seen.
  void merge(const RegressionError& other) {
    if (!(other.weight_ > 0.0)) return;
    const double total = weight_ + other.weight_, delta = other.mean_ - mean_;
    scatter_ += other.scatter_ + delta * delta * (weight_ / total) * other.weight_;
    mean_ += delta * (other.weight_ / total);
    weight_ = total;
    squared_error_ += other.squared_error_;
    absolute_error_ += other.absolute_error_;
    prediction_ += other.prediction_;
    least_ = std::min(least_, other.least_);
    greatest_ = std::max(greatest_, other.greatest_);
  }
  /// @brief The RMSE.
  double value() const { return rmse(); }
  /// @brief √(Σ w e² / Σ w); NaN if nothing was added.
  double rmse() const { return std::sqrt(over(squared_error_, weight_)); }
  /// @brief Σ w |e| / Σ w; NaN if nothing was added.
  double mae() const { return over(absolute_error_, weight_); }
  /// @brief The statistic of the labels that a name stands for; NaN if nothing was added.
  double denominator(Denominator by) const {
    if (!(weight_ > 0.0)) return std::numeric_limits<double>::quiet_NaN();
    switch (by) {
      case Denominator::std:
        return least_ < greatest_ ? std::sqrt(scatter_ / weight_) : 0.0;  // constant labels: 0 exactly, not rounding
      case Denominator::mean:
        return mean_;
      case Denominator::range:
        return greatest_ - least_;
      case Denominator::rms:
        return std::sqrt(scatter_ / weight_ + mean_ * mean_);
    }
    return std::numeric_limits<double>::quiet_NaN();
  }
  /// @brief RMSE over a statistic of the labels; NaN where that is 0 (constant labels have no std) or below.
  double nrmse(Denominator by = Denominator::std) const { return over(rmse(), denominator(by)); }
  /// @brief MAE over a statistic of the labels; NaN where that is 0 or below.
  double nmae(Denominator by = Denominator::mean) const { return over(mae(), denominator(by)); }
  /// @brief Σ w ŷ / Σ w y: above 1 the model promises too much. NaN unless the labels' sum is above 0.
  double ratio() const { return over(prediction_, mean_ * weight_); }
  /// @brief Σ w.
  double weight() const { return weight_; }

 private:
  static double over(double numerator, double denominator) { return denominator > 0.0 ? numerator / denominator : std::numeric_limits<double>::quiet_NaN(); }
  double weight_ = 0.0, squared_error_ = 0.0, absolute_error_ = 0.0, prediction_ = 0.0;
  double mean_ = 0.0, scatter_ = 0.0;  // weighted mean of the labels, and Σ w (y − mean)²
  double least_ = std::numeric_limits<double>::infinity(), greatest_ = -std::numeric_limits<double>::infinity();
};

}  // namespace htl
