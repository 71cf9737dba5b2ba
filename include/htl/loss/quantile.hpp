// SPDX-License-Identifier: Apache-2.0
/// @file quantile.hpp
/// @brief Quantile: the pinball loss, whose minimiser is a quantile.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <ATen/ops/relu.h>

#include <algorithm>
#include <cmath>

namespace htl::inline v0_1_0 {

namespace detail {

/// The pinball loss of e = y − x and its slope in x, 0 at e = 0 as relu has it. Without branches, which errors of random sign would mispredict.
inline double pinball(double error, double q, double& slope) {
  const double steep = (0.5 - q) - std::copysign(0.5, error);
  slope = error == 0.0 ? 0.0 : steep + (error - error);  // the last is 0, or NaN
  return std::max(q * error, (q - 1.0) * error);
}

}  // namespace detail

/// @brief With e = y − x: l = q·e where e ≥ 0, else (q − 1)·e. In the unit of the target; its minimiser is the q-quantile.
///
/// dl/dx = −q below the target, 1 − q above it, 0 on it. q = ½ is half the absolute error. A monotone label transform keeps quantiles: the prediction that
/// comes back through its inverse is the label's q-quantile. Convex. Any device, no synchronisation. Width 1; any finite target; finite wherever the difference
/// is.
///
/// Source: Koenker and Bassett, Regression Quantiles, 1978.
///
///     at::Tensor per_row = htl::Quantile(0.9)(predictions, targets);   // [B]
struct Quantile {
  /// @brief With the level.
  /// @throws c10::ValueError unless q is in (0, 1)
  explicit Quantile(double level = 0.5) : q(level) { HTL_CHECK(q > 0.0 && q < 1.0, "htl::Quantile: expected q in (0, 1), got ", q); }
  /// The level
  double q;

  /// @brief "quantile"
  std::string name() const { return "quantile"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief q
  Options parameters() const { return {{"q", q}}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from predictions [B] or [B, 1] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& predictions, const at::Tensor& targets) const {
    const at::Tensor x = detail::column("htl::Quantile", predictions, targets), error = targets.to(x.scalar_type()).sub(x);
    return error.relu().mul(q).add(error.neg().relu().mul(1.0 - q));
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::Quantile", output); }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const { return detail::pinball(target - *output, q, *slope); }
};

}  // namespace htl
