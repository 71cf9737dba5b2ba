// SPDX-License-Identifier: Apache-2.0
/// @file gamma_function.hpp
/// @brief log Γ and ψ without their large terms, which likelihoods cancel, as fp64 numbers and on tensors. std::lgamma would write a global variable.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/loss/detail/special.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/ops/lgamma.h>
#include <ATen/ops/log.h>
#include <ATen/ops/where.h>
#include <ATen/ops/xlogy.h>

#include <cmath>
#include <limits>

namespace htl::inline v0_1_0::detail {

inline constexpr double kStirling = 16.0;  // from here on four terms of Stirling's series are exact to 1e-14

/// Σ of Stirling's series for log Γ(x + 1) − x log x + x − ½ log 2πx, x ≥ 16.
inline double stirling_rest(double x) {
  const double i = 1.0 / x, ii = i * i;
  return i * (1.0 / 12 - ii * (1.0 / 360 - ii * (1.0 / 1260 - ii / 1680)));
}

/// r(x) = log Γ(x + 1) − x log x + x for x > 0, NaN below: from 0 up to ½ log 2πx + 1/12x. Stirling's series, after as many steps of Γ(x + 1) = x Γ(x) as lead
/// to x ≥ 16.
inline double log_gamma_rest(double x, double log_x) {
  if (!(x >= 0.0)) return std::numeric_limits<double>::quiet_NaN();
  if (x >= kStirling) return kHalfLogTwoPi + 0.5 * log_x + stirling_rest(x);
  double product = 1.0, y = x;
  for (; y < kStirling; y += 1.0) product *= y + 1.0;  // Γ(x + 1) = Γ(y + 1) / Π (x + k)
  const double log_y = std::log(y);
  return kHalfLogTwoPi + (y + 0.5) * log_y - y + stirling_rest(y) - std::log(product) - x * (log_x - 1.0);
}

/// r′(x) = ψ(x + 1) − log x.
inline double digamma_rest(double x, double log_x) {
  double sum = 0.0, y = x;
  for (; y < kStirling; y += 1.0) sum += 1.0 / (y + 1.0);
  const double i = 1.0 / y, ii = i * i;  // ψ(y + 1) − log y = 1/2y − 1/12y² + 1/120y⁴ − 1/252y⁶ + 1/240y⁸
  const double at_y = i * 0.5 - ii * (1.0 / 12 - ii * (1.0 / 120 - ii * (1.0 / 252 - ii / 240)));
  return at_y + (y > x ? std::log(y) - log_x : 0.0) - sum;
}

/// r(x) on tensors of x ≥ 0; 0 at x = 0. Differentiable twice in x > 0.
inline at::Tensor log_gamma_rest(const at::Tensor& x) {
  const at::Tensor small = x.clamp_max(kStirling), large = x.clamp_min(kStirling);
  const at::Tensor i = large.reciprocal(), ii = i.square();
  const at::Tensor series = i.mul(ii.mul(ii.mul(ii.mul(-1.0 / 1680).add(1.0 / 1260)).sub(1.0 / 360)).add(1.0 / 12));
  return at::where(x.lt(kStirling), small.add(1).lgamma().sub(at::xlogy(small, small)).add(small), large.log().mul(0.5).add(series).add(kHalfLogTwoPi));
}

}  // namespace htl::inline v0_1_0::detail
