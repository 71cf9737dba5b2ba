// SPDX-License-Identifier: Apache-2.0
/// @file log_cosh.hpp
/// @brief LogCosh: squared near the target, absolute far from it, smooth everywhere.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <ATen/ops/exp.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief With e = (x − y) / s: l = s² log cosh e, which is ½(x − y)² near the target and s|x − y| − s² log 2 far from it.
///
/// dl/dx = s·tanh e, at most s. By −½ log(1 − tanh² e) where |e| < 1 and |e| + log(1 + e^−2|e|) − log 2 elsewhere: full relative precision from the smallest
/// error to the largest. All derivatives exist, so Newton-like methods can use it where Huber has a kink. Any device, no synchronisation; one exponential and
/// one logarithm a row.
///
/// Width 1; any finite target. The prediction is the output itself, between mean and median. Convex; finite wherever the difference is.
///
/// Source: the usual log-cosh, which has s = 1; the scale is Huber's δ.
///
///     at::Tensor per_row = htl::LogCosh(0.5)(predictions, targets);   // [B]
struct LogCosh {
  /// @brief With s in the target's unit (after the label transform).
  /// @throws c10::ValueError unless s is finite and > 0
  explicit LogCosh(double switch_point = 1.0) : scale(switch_point) {
    HTL_CHECK(scale > 0.0 && std::isfinite(scale), "htl::LogCosh: expected a finite scale > 0, got ", scale);
  }
  /// s
  double scale;

  /// @brief "log_cosh"
  std::string name() const { return "log_cosh"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief scale
  Options parameters() const { return {{"scale", scale}}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from predictions [B] or [B, 1] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& predictions, const at::Tensor& targets) const {
    const at::Tensor x = detail::column("htl::LogCosh", predictions, targets);
    const at::Tensor error = x.sub(targets.to(x.scalar_type())).div(scale), size = error.abs();
    const at::Tensor near = error.clamp(-1, 1).tanh().square().neg().log1p().mul(-0.5);
    const at::Tensor far = size.add(size.mul(-2).exp().log1p()).sub(kLogTwo);
    return at::where(size.lt(1), near, far).mul(scale).mul(scale);  // s² alone may be beyond the type
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::LogCosh", output); }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    const double error = (*output - target) / scale, size = std::abs(error);
    if (size < 0.125) {  // the series of log cosh and of its derivative: log(…) would cancel
      const double q = error * error;
      *slope =
          scale * error * (1.0 + q * (-1.0 / 3 + q * (2.0 / 15 + q * (-17.0 / 315 + q * (62.0 / 2835 - q * (1382.0 / 155925 - q * (21844.0 / 6081075)))))));
      const double half = 0.5 + q * (-1.0 / 12 + q * (1.0 / 45 + q * (-17.0 / 2520 + q * (31.0 / 14175 - q * (691.0 / 935550 - q * (10922.0 / 42567525))))));
      return scale * scale * (q * half);
    }
    const double tail = std::exp(-2.0 * size), whole = 1.0 + tail, rest = 1.0 / whole;
    *slope = std::isnan(error) ? error : std::copysign(scale * (1.0 - tail) * rest, error);
    return scale * scale * (size + (std::log(whole) + (tail - (whole - 1.0)) * rest) - kLogTwo);
  }

 private:
  static constexpr double kLogTwo = 0.693147180559945309417232121458;
};

}  // namespace htl
