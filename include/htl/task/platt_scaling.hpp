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
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief p' = σ(a·logit(p) + b) with a, b of maximum likelihood; with `slope` false a = 1 and only the level moves.
///
/// Labels are smoothed to (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), N the classes' weights, so that it is finite where the classes can be told apart. a may be 0 but
/// not below: a model worse than chance is not turned round, and every row gets the labels' mean, as where all predictions are equal. With b of maximum
/// likelihood the mean prediction is that of the smoothed labels. Probabilities are kept in [1e-15, 1 − 1e-15] before the logit. Newton's method, fp64.
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
  const at::Tensor z = logits(prediction), target = label.mul(high - low).add(low), share = weight.div(weight.sum());
  const auto mean = [&](const at::Tensor& values) { return values.mul(share).sum().item<double>(); };
  const double of_targets = std::clamp(mean(target), 1e-300, 1.0 - 1e-16), level = std::log(of_targets) - std::log1p(-of_targets);
  const double least = z.min().item<double>(), most = z.max().item<double>();
  if (!slope) {  // the level alone: Newton's steps inside of what holds the only root of Σ w (p − t), halves where they leave it
    double from = level - most, to = level - least, at_b = 0.5 * (from + to);
    for (int step = 0; step < 200 && from < to; ++step) {
      const at::Tensor p = z.add(at_b).sigmoid();
      const double excess = mean(p.sub(target)), next = at_b - excess / mean(p.mul(p.neg().add(1.0)));
      (excess > 0.0 ? to : from) = at_b;
      const double before = std::exchange(at_b, next > from && next < to ? next : 0.5 * (from + to));
      if (std::abs(at_b - before) <= 1e-15 * std::max(1.0, std::abs(at_b))) break;
    }
    return {slope, 1.0, at_b};
  }
  // Convex, so that the slope at a = 0, with the best b there, says on which side of it the best a is
  const at::Tensor apart = z.sub(mean(z));
  const double gain = mean(target.sub(of_targets).mul(apart)), rounding = 1e-14 * mean(apart.abs());
  if (least == most || !(gain > rounding)) return {slope, 0.0, level};
  const auto loss = [&](double slope_now, double shift) {
    const at::Tensor x = z.mul(slope_now).add(shift);
    return -mean(at::log_sigmoid(x).mul(target).add(at::log_sigmoid(x.neg()).mul(target.neg().add(1.0))));
  };
  PlattScaling result{slope, 0.0, level};
  double value = loss(result.a, result.b);
  for (int step = 0; step < 100; ++step) {
    const at::Tensor p = z.mul(result.a).add(result.b).sigmoid(), error = p.sub(target), curve = p.mul(p.neg().add(1.0));
    const double gb = mean(error), hbb = mean(curve), centre = mean(curve.mul(z)) / hbb;
    const at::Tensor centred = z.sub(centre);  // then both directions are apart, and no large terms cancel
    const double ga = mean(error.mul(centred)), haa = mean(curve.mul(centred).mul(centred));
    const double da = -ga / haa, db = -gb / hbb - da * centre, promised = ga * ga / haa + gb * gb / hbb;
    if (!std::isfinite(da) || !std::isfinite(db)) break;
    double part = 1.0, next = value;
    const bool last = promised <= 1e-12 * value;  // so near that values say no more, and the whole step is good
    while (!last && !((next = loss(result.a + part * da, result.b + part * db)) <= value - 1e-4 * part * promised) && part > 1e-15) part /= 2.0;
    result.a += part * da;
    result.b += part * db;
    value = next;
    if (last || part <= 1e-15) break;
  }
  return result;
}

}  // namespace htl
