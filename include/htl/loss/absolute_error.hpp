// SPDX-License-Identifier: Apache-2.0
/// @file absolute_error.hpp
/// @brief AbsoluteError: |prediction − target|.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief l = |x − y|, in the unit of the target. dl/dx = ±1, 0 at x = y. Its minimiser is the median. Any device, no synchronisation.
///
/// Width 1; any finite target. The prediction is the output itself. Convex; finite wherever the difference is. O(B).
///
///     at::Tensor per_row = htl::AbsoluteError{}(predictions, targets);   // [B]
struct AbsoluteError {
  /// @brief "absolute"
  std::string name() const { return "absolute"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from predictions [B] or [B, 1] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& predictions, const at::Tensor& targets) const {
    const at::Tensor x = detail::column("htl::AbsoluteError", predictions, targets);
    return x.sub(targets.to(x.scalar_type())).abs();
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::AbsoluteError", output); }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    const double error = *output - target;
    *slope = error == 0.0 || std::isnan(error) ? error : std::copysign(1.0, error);
    return std::abs(error);
  }
};

}  // namespace htl
