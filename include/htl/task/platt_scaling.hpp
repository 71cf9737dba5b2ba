// SPDX-License-Identifier: Apache-2.0
/// @file platt_scaling.hpp
/// @brief PlattScaling: a logistic regression on the model's logit.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/calibrator.hpp>

#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/logit.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace htl::inline v0_1_0 {

/// @brief p' = σ(a·logit(p) + b) with a, b of maximum likelihood; with `slope` false a = 1 and only the level moves.
///
/// Labels are smoothed to (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), N the classes' weights, so that it is finite where the classes can be told apart. a may be 0 but
/// not below: a model worse than chance is not turned round. Probabilities are kept in [1e-15, 1 − 1e-15] before the logit. Newton's method, fp64.
/// **Source.** Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
struct PlattScaling {
  bool slope = true;                                    ///< whether a is fitted
  double a = std::numeric_limits<double>::quiet_NaN();  ///< of the logit; NaN = not fitted
  double b = 0.0;                                       ///< the shift

  /// @brief "platt"
  std::string name() const { return "platt"; }
  /// @brief Binary tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::binary; }
  /// @brief A copy with a and b.
  PlattScaling fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const;
  /// @brief Whether a and b are there.
  bool is_fitted() const { return std::isfinite(a); }
  /// @brief σ(a·logit(p) + b)
  at::Tensor apply(const at::Tensor& prediction) const { return logits(prediction.to(at::kDouble)).mul(a).add(b).sigmoid().to(prediction.scalar_type()); }
  /// @brief slope
  Options parameters() const { return {{"slope", slope}}; }
  /// @brief a, b
  Options statistics() const { return {{"a", a}, {"b", b}}; }
  /// @brief A copy with given a and b.
  PlattScaling with_statistics(const Options& numbers) const {
    const PlattScaling given{slope, numbers["a"].number(), numbers["b"].number()};
    HTL_CHECK(given.a >= 0.0 && std::isfinite(given.a) && std::isfinite(given.b), "htl::PlattScaling: expected finite a ≥ 0 and b, got ", given.a, " and ",
              given.b);
    return given;
  }

 private:
  static at::Tensor logits(const at::Tensor& prediction) { return at::logit(prediction, 1e-15); }
};

inline PlattScaling PlattScaling::fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const {
  HTL_CHECK(prediction.ge(0).logical_and(prediction.le(1)).all().item<bool>(), "htl::PlattScaling: expected probabilities in [0, 1]");
  const double events = label.mul(weight).sum().item<double>(), others = weight.sum().item<double>() - events;
  const double high = (events + 1.0) / (events + 2.0), low = 1.0 / (others + 2.0);
  const at::Tensor z = logits(prediction), target = label.mul(high - low).add(low);
  const auto loss = [&](double slope_now, double shift) {
    const at::Tensor x = z.mul(slope_now).add(shift);
    return at::log_sigmoid(x).mul(target).add(at::log_sigmoid(x.neg()).mul(target.neg().add(1.0))).mul(weight).sum().neg().item<double>();
  };
  PlattScaling result{slope, 1.0, 0.0};
  double value = loss(result.a, result.b);
  for (int step = 0; step < 100; ++step) {
    const at::Tensor p = z.mul(result.a).add(result.b).sigmoid(), error = p.sub(target).mul(weight), curve = p.mul(p.neg().add(1.0)).mul(weight);
    const double gb = error.sum().item<double>(), hbb = curve.sum().item<double>() + 1e-12;
    double da = 0.0, db = -gb / hbb;
    if (slope) {
      const double ga = error.mul(z).sum().item<double>(), hab = curve.mul(z).sum().item<double>(), haa = curve.mul(z).mul(z).sum().item<double>() + 1e-12;
      const double det = std::max(haa * hbb - hab * hab, 1e-12 * haa * hbb);
      da = -(hbb * ga - hab * gb) / det;
      db = -(haa * gb - hab * ga) / det;
    }
    double part = 1.0, next = std::numeric_limits<double>::infinity();
    for (; part > 1e-10; part /= 2.0) {
      next = loss(std::max(result.a + part * da, 0.0), result.b + part * db);
      if (next <= value) break;
    }
    if (!(next <= value)) break;
    const double change = value - next;
    result.a = std::max(result.a + part * da, 0.0);
    result.b += part * db;
    value = next;
    if (change <= 1e-14 * std::abs(value)) break;
  }
  return result;
}

}  // namespace htl
