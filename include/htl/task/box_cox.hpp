// SPDX-License-Identifier: Apache-2.0
/// @file box_cox.hpp
/// @brief BoxCoxTransform: the power of the label that makes it most like a normal one.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/label_transform.hpp>

#include <ATen/ops/special_log1p.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace htl::inline v0_1_0 {

/// @brief z = ((y + shift)^λ − 1) / λ, and log(y + shift) for λ = 0 (Box and Cox, "An Analysis of Transformations", 1964).
///
/// λ is given, or fitted by maximum likelihood: the one that maximises −(n/2) log var(z) + (λ − 1) Σ log(y + shift), in [−5, 5], to 1e-6; a constant label has
/// λ = 1. λ = 1 is the identity but for the shift, λ = 0 with shift 1 is log1p. Labels > −shift. What comes out has any mean and spread: chain z_score() behind
/// it.
///
/// **Inverse** (λz + 1)^{1/λ} − shift, exact; of a mean it is a median-like value, which smeared() corrects. Where λz + 1 ≤ 0, λ > 0: −shift. For λ < 0 the
/// label is infinite at z = −1/λ: from z of the largest training label on it is that label. Labels above e^80 are held there. All with gradient 0 there and
/// beyond. For λ < 0 large labels lie so close before −1/λ that float32 outputs can't tell them apart: with λ = −1 1e6 comes back as 986,894.
struct BoxCoxTransform {
  double shift = 1.0;                                         ///< added to the label; finite
  std::optional<double> given = std::nullopt;                 ///< λ, if it is not fitted
  double lambda = std::numeric_limits<double>::quiet_NaN();   ///< fitted or given λ; NaN = not fitted
  double largest = std::numeric_limits<double>::quiet_NaN();  ///< the largest training label

  static constexpr double kMostLog = 80.0;  ///< of a label + shift: its exponential still fits float32

  /// @brief "box_cox"
  std::string name() const { return "box_cox"; }
  /// @brief A copy with λ for the values.
  /// @throws c10::ValueError if a label is not above −shift
  BoxCoxTransform fitted(const at::Tensor& values) const;
  /// @brief Whether statistics are there.
  bool is_fitted() const { return std::isfinite(lambda); }
  /// @brief z
  at::Tensor apply(const at::Tensor& values) const {
    const at::Tensor logs = values.add(shift).log();
    return lambda == 0.0 ? logs : logs.mul(lambda).expm1().div(lambda);
  }
  /// @brief y
  at::Tensor inverse(const at::Tensor& values) const {
    if (lambda == 0.0) return values.clamp_max(kMostLog).exp().sub(shift);
    const at::Tensor scaled = values.mul(lambda);
    const double end = lambda > 0.0 ? -1.0 : std::expm1(lambda * std::log(largest + shift)), label = lambda > 0.0 ? -shift : largest;
    const at::Tensor beyond = scaled.le(end);  // taken out first: at −1 the logarithm has no finite slope
    return scaled.masked_fill(beyond, 0).log1p().div(lambda).clamp_max(kMostLog).exp().sub(shift).masked_fill(beyond, label);
  }
  /// @brief shift, and lambda where it was given
  Options parameters() const {
    Options options = {{"shift", shift}};
    if (given) options.set("lambda", *given);
    return options;
  }
  /// @brief lambda, largest
  Options statistics() const { return {{"lambda", lambda}, {"largest", largest}}; }
  /// @brief A copy with given lambda and largest.
  BoxCoxTransform with_statistics(const Options& numbers) const {
    BoxCoxTransform copy = *this;
    copy.lambda = numbers["lambda"].number();
    copy.largest = numbers["largest"].number();
    HTL_CHECK(std::isfinite(copy.lambda) && copy.largest > -shift && std::isfinite(copy.largest),
              "htl::box_cox: expected a finite lambda and a largest label > ", -shift, ", got lambda ", copy.lambda, ", largest ", copy.largest);
    return copy;
  }
};

inline BoxCoxTransform BoxCoxTransform::fitted(const at::Tensor& values) const {
  HTL_CHECK(std::isfinite(shift), "htl::box_cox: expected a finite shift, got ", shift);
  HTL_CHECK(!given || std::isfinite(*given), "htl::box_cox: expected a finite lambda, got ", given.value_or(0.0));
  const double least = values.min().item<double>();
  HTL_CHECK(least > -shift, "htl::box_cox: expected labels > ", -shift, ", got ", least, "; raise the shift, or use z_score() for a label of any sign");
  BoxCoxTransform result = *this;
  result.largest = values.max().item<double>();
  const at::Tensor logs = values.add(shift).log();
  const double mean_log = logs.mean().item<double>();
  const auto likelihood = [&](double candidate) {  // of one label, less a constant; with the geometric mean taken out, so that no power overflows
    const at::Tensor centred = logs.sub(mean_log);
    const at::Tensor z = candidate == 0.0 ? centred : centred.mul(candidate).expm1().div(candidate);
    const double variance = z.var(/*unbiased=*/false).item<double>();
    return std::isfinite(variance) && variance > 0.0 ? -0.5 * std::log(variance) : -std::numeric_limits<double>::infinity();
  };
  result.lambda = given.value_or(1.0);
  if (given || least == result.largest) return result;
  constexpr double widest = 5.0, step = 0.25;
  double best = -widest, best_value = likelihood(best);
  for (double candidate = -widest + step; candidate <= widest; candidate += step)
    if (const double value = likelihood(candidate); value > best_value) best = candidate, best_value = value;
  double low = std::max(best - step, -widest), high = std::min(best + step, widest);
  const double part = (3.0 - std::sqrt(5.0)) / 2.0;
  double a = low + part * (high - low), b = high - part * (high - low), at_a = likelihood(a), at_b = likelihood(b);
  while (high - low > 1e-7) {
    if (at_a > at_b) {
      high = b, b = a, at_b = at_a;
      at_a = likelihood(a = low + part * (high - low));
    } else {
      low = a, a = b, at_a = at_b;
      at_b = likelihood(b = high - part * (high - low));
    }
  }
  result.lambda = (low + high) / 2.0;
  return result;
}

/// @brief z = ((y + shift)^λ − 1) / λ with a fitted λ.
inline AnyLabelTransform box_cox(double shift = 1.0) { return BoxCoxTransform{.shift = shift}; }

}  // namespace htl
