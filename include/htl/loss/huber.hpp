// SPDX-License-Identifier: Apache-2.0
/// @file huber.hpp
/// @brief Huber: squared near the target, linear far from it.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <ATen/ops/huber_loss.h>

#include <algorithm>
#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief With e = x − y: l = ½e² where |e| ≤ δ, else δ(|e| − ½δ). |dl/dx| ≤ δ, so single rows can't dominate. Any device, no synchronisation.
///
/// Width 1; any finite target. The prediction is the output itself, between mean and median. Convex; finite wherever the difference is. O(B).
///
/// Smooth L1 with β is this with δ = β, divided by β. Source: Huber, Robust Estimation of a Location Parameter, 1964.
///
///     at::Tensor per_row = htl::Huber(0.5)(predictions, targets);   // [B]
struct Huber {
  /// @brief With δ in the target's unit (after the label transform).
  /// @throws c10::ValueError unless δ is finite and > 0
  explicit Huber(double switch_point = 1.0) : delta(switch_point) {
    HTL_CHECK(delta > 0.0 && std::isfinite(delta), "htl::Huber: expected a finite delta > 0, got ", delta);
  }
  /// δ
  double delta;

  /// @brief "huber"
  std::string name() const { return "huber"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief delta
  Options parameters() const { return {{"delta", delta}}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from predictions [B] or [B, 1] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& predictions, const at::Tensor& targets) const {
    const at::Tensor x = detail::column("htl::Huber", predictions, targets);
    return at::huber_loss(x, targets.to(x.scalar_type()), at::Reduction::None, delta);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::Huber", output); }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    // Without branches, which random labels would mispredict; NaN stays NaN by the order of the arguments
    const double error = *output - target, clipped = std::min(std::max(error, -delta), delta);
    *slope = clipped;
    return clipped * (error - 0.5 * clipped);
  }
};

}  // namespace htl
