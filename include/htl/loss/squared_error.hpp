// SPDX-License-Identifier: Apache-2.0
/// @file squared_error.hpp
/// @brief SquaredError: (prediction − target)².
#pragma once

#include <htl/loss/one_pass.hpp>

namespace htl::inline v0_1_0 {

/// @brief l = (x − y)², in the squared unit of the target. dl/dx = 2(x − y). Its minimiser is the mean. Any device, no synchronisation.
///
/// Width 1; any finite target. The prediction is the output itself. Convex. In float32 the value of an error above 1.8e19 is infinite; the slope is right
/// beside it. O(B).
///
///     at::Tensor per_row = htl::SquaredError{}(predictions, targets);   // [B]
struct SquaredError {
  /// @brief "squared"
  std::string name() const { return "squared"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from predictions [B] or [B, 1] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& predictions, const at::Tensor& targets) const {
    const at::Tensor x = detail::column("htl::SquaredError", predictions, targets);
    return x.sub(targets.to(x.scalar_type())).square();
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::SquaredError", output); }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    const double error = *output - target;
    *slope = 2.0 * error;
    return error * error;
  }
};

}  // namespace htl
