// SPDX-License-Identifier: Apache-2.0
/// @file positive.hpp
/// @brief Outputs that mean positive numbers: a scale by softplus, a mean by the bounded exponential, the distance of a label from it.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/loss/detail/special.hpp>
#include <htl/task/task_loss.hpp>

#include <ATen/ops/expm1.h>
#include <ATen/ops/minimum.h>

#include <cmath>
#include <limits>
#include <string_view>

namespace htl::inline v0_1_0::detail {

/// softplus(x) held in [low, high]: σ, shape or dispersion of an output. Its slope is 0 where it is held.
struct Positive {
  double value, slope;
  Positive(double x, double low, double high) : Positive(logistic(x), low, high) {}
  Positive(const Logistic& at_x, double low, double high) {
    const bool below = at_x.over<low, above = at_x.over> high;
    value = below ? low : above ? high : at_x.over;
    slope = below || above ? 0.0 : at_x.up;
  }
};
inline at::Tensor positive(const at::Tensor& x, double low, double high) { return detail::softplus(x).clamp(low, high); }

/// Throws unless floor and ceiling of a scale are in order.
inline void check_scale(std::string_view who, std::string_view what, double low, double high) {
  HTL_CHECK(low > 0.0 && std::isfinite(low), who, ": expected a finite ", what, "_floor > 0, got ", low);
  HTL_CHECK(high > low && std::isfinite(high), who, ": expected a finite max_", what, " > ", what, "_floor = ", low, ", got ", high);
}

/// The outputs [B, W], 0 in rows that do not count: there a term may be infinite in float32, and times no gradient NaN.
inline at::Tensor counting_outputs(const LossInput& input) {
  return input.weight.defined() ? input.output.masked_fill(input.weight.eq(0).unsqueeze(1), 0) : input.output;
}

/// bounded_exp() with its derivative, from one exponential.
struct BoundedExp {
  double value, slope;
  explicit BoundedExp(double x, double bound = kExpBound) : value(std::exp(x > bound ? bound : x)), slope(value) {
    if (x > bound) value *= x - bound + 1.0;
  }
};

/// The smallest label of which likelihoods take the logarithm; smaller ones, as in rows without a label, count as it.
inline constexpr double kLeastLabel = static_cast<double>(std::numeric_limits<float>::min());

/// log y of labels y > 0.
inline at::Tensor log_label(const at::Tensor& labels) { return labels.clamp_min(kLeastLabel).log(); }
inline double log_label(double label) { return std::log(label < kLeastLabel ? kLeastLabel : label); }  // NaN stays

/// e^d − 1 − d, bounded as bounded_exp(), with no more cancellation around 0 than one rounding of d.
inline at::Tensor exp_rest(const at::Tensor& d) { return at::expm1(d.clamp_max(kExpBound)).mul(d.sub(kExpBound).relu().add(1.0)).sub(d); }
/// The same with a bound of each row's own.
inline at::Tensor exp_rest(const at::Tensor& d, const at::Tensor& bound) {
  const at::Tensor beyond = d.sub(bound).relu();
  return at::expm1(at::minimum(d, bound)).mul(beyond.add(1.0)).add(beyond).sub(d);
}
/// The same where e^d is at hand.
inline double exp_rest(double d, double exp_d) {
  if (std::abs(d) >= 0.02) return exp_d - 1.0 - d;
  return d * d * (0.5 + d * (1.0 / 6 + d * (1.0 / 24 + d * (1.0 / 120 + d * (1.0 / 720 + d * (1.0 / 5040))))));
}

}  // namespace htl::inline v0_1_0::detail
