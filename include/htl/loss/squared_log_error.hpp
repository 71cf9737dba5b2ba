// SPDX-License-Identifier: Apache-2.0
/// @file squared_log_error.hpp
/// @brief SquaredLogError: the square of a relative error, of predictions in the label's own unit.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <ATen/ops/log1p.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief l = (f(x) − log(1 + y))² for a label y ≥ 0, where f(x) = log(1 + x) for x ≥ 0 and its tangent x below: no prediction is without a slope.
///
/// x is the prediction in the label's unit. dl/dx = 2(f(x) − log(1 + y)) / (1 + max(x, 0)). Not convex in x above e(1 + y) − 1. Its minimiser is the geometric
/// mean of 1 + y, less 1. The same numbers as SquaredError behind the log1p transform, whose output is log(1 + x) instead. Any device, no synchronisation; one
/// logarithm a row.
///
/// Source: the mean squared logarithmic error of Keras and scikit-learn, which have a flat part or no value at all below 0.
///
///     at::Tensor per_row = htl::SquaredLogError{}(predictions, labels);   // [B]
struct SquaredLogError {
  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;

  /// @brief "squared_log"
  std::string name() const { return "squared_log"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }

  /// @brief [B] from predictions [B] or [B, 1] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& predictions, const at::Tensor& labels) const {
    const at::Tensor x = detail::column("htl::SquaredLogError", predictions, labels), above = x.clamp_min(0);
    return above.log1p().add(x.sub(above)).sub(labels.to(x.scalar_type()).log1p()).square();
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::SquaredLogError", output); }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const {
    const double x = *output, above = x > 0.0 ? x : 0.0, part = 1.0 / (1.0 + above);
    const double ratio = (*label - above) * part;  // (1 + y) / (1 + x) − 1
    const bool near = std::abs(ratio) < 0.5;
    const double whole = near ? 1.0 + ratio : (1.0 + *label) * part;
    const double error = (x - above) - (std::log(whole) + (near ? ratio - (whole - 1.0) : 0.0));  // with what rounding took from 1 + ratio
    *slope = 2.0 * error * part;
    return error * error;
  }
  /// @brief The same for many rows.
  void rows(const double* outputs, const double* labels, size_t count, double* values, double* slopes) const {
    for (size_t i = 0; i < count; ++i) {
      const double above = detail::positive_part(outputs[i]), part = 1.0 / (1.0 + above);
      slopes[i] = part;
      values[i] = (1.0 + labels[i]) * part;
    }
    double logs[detail::kRowsPerBlock];
    std::copy(values, values + count, logs);
    detail::log_all(logs, count);
    for (size_t i = 0; i < count; ++i) {
      const double above = detail::positive_part(outputs[i]), ratio = (labels[i] - above) * slopes[i];
      const double rest = detail::kept(ratio - (values[i] - 1.0), std::abs(ratio) < 0.5), error = (outputs[i] - above) - (logs[i] + rest);
      values[i] = error * error;
      slopes[i] *= 2.0 * error;
    }
  }
};

}  // namespace htl
