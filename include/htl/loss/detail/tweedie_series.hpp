// SPDX-License-Identifier: Apache-2.0
/// @file tweedie_series.hpp
/// @brief TweedieSeries: the normalising series of the Tweedie density, free of terms that cancel.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/loss/detail/gamma_function.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// log Σ_{j ≥ 1} e^{E(j)} of the power p, with α = (2 − p)/(p − 1) and λ = y^{2−p}/(φ(2 − p)), near which the largest term is:
/// E(j) = −(1 + α)(j log(j/λ) − j + λ) − g(j), g(j) = r(j) + r(αj) − log αj, r of gamma_function.hpp. It is Dunn and Smyth's series W(y, φ) times e^{−(1+α)λ},
/// with both gamma functions split into what grows, which the deviance takes away, and r.
///
/// The terms follow a bell of width √(λ/(1 + α)). kNodes nodes reach 6 widths to each side, and some terms more to the right: each j ≥ 1 where that is enough,
/// else evenly spaced numbers, whose sum times their distance is the same as the sum over all j up to e^{−19·(width/distance)²}.
class TweedieSeries {
 public:
  static constexpr int64_t kNodes = 48;

  TweedieSeries() = default;
  explicit TweedieSeries(double power) : alpha_((2.0 - power) / (power - 1.0)), steep_(1.0 / (power - 1.0)) {
    std::vector<double> table(kTable + 1, 0.0);
    for (size_t j = 1; j <= kTable; ++j) {
      const double x = static_cast<double>(j);
      table[j] = steep_ * x * (std::log(x) - 1.0) + rest(x);
    }
    of_terms_ = std::make_shared<const std::vector<double>>(std::move(table));
  }

  /// Of log λ; writes its derivative by log λ.
  double log_sum(double log_lambda, double& slope) const {
    const double lambda = std::exp(log_lambda);
    const Nodes nodes(lambda, std::sqrt(lambda / steep_));
    double peak = 0.0, sum = 0.0, moment = 0.0;
    const auto add = [&](double exponent, double from_peak) {
      const double term = std::exp(exponent - peak);
      sum += term;
      moment += term * from_peak;
    };
    const double last = nodes.first + static_cast<double>(kNodes - 1);
    if (nodes.distance == 1.0 && last <= static_cast<double>(kTable)) {
      const double* const table = of_terms_->data();
      const auto exponent = [&](size_t j) { return steep_ * (static_cast<double>(j) * log_lambda - lambda) - table[j]; };
      const size_t begin = static_cast<size_t>(nodes.first);
      peak = exponent(lambda > nodes.first ? static_cast<size_t>(lambda) : begin);
      for (size_t j = begin; j < begin + kNodes; ++j) add(exponent(j), static_cast<double>(j) - lambda);
    } else {
      peak = -rest(lambda);
      for (int64_t n = 0; n < kNodes; ++n) {
        const double j = nodes.first + static_cast<double>(n) * nodes.distance, from_peak = j - lambda;
        add(-steep_ * (j * std::log1p(from_peak / lambda) - from_peak) - rest(j), from_peak);
      }
    }
    slope = steep_ * moment / sum;
    return peak + std::log(sum) + std::log(nodes.distance);
  }

  /// The same on tensors [B], differentiable once in log λ.
  at::Tensor log_sum(const at::Tensor& log_lambda) const {
    const at::Tensor lambda = log_lambda.exp(), at_lambda = lambda.detach(), width = at_lambda.div(steep_).sqrt();
    const at::Tensor lowest = at_lambda.sub(width.mul(kReach)).sub(1).floor().clamp_min(1), highest = at_lambda.add(width.mul(kReach)).add(kMore);
    const at::Tensor distance = highest.sub(lowest).div(kNodes - 1).clamp_min(1);
    const at::Tensor j = lowest.unsqueeze(1).add(at::arange(kNodes, lambda.options()).unsqueeze(0).mul(distance.unsqueeze(1)));  // [B, nodes]
    const at::Tensor mean = lambda.unsqueeze(1), from_peak = j.sub(mean);
    const at::Tensor ratio = from_peak.div(mean.clamp_min(1)), inside = ratio.clamp(-0.1, 0.1);
    // λ((1 + t) log(1 + t) − t) by its series where powers cancel
    at::Tensor series = at::zeros_like(ratio);
    for (int64_t n = 12; n >= 2; --n) series = series.mul(inside).add((n % 2 == 0 ? 1.0 : -1.0) / static_cast<double>(n * (n - 1)));
    const at::Tensor near = series.mul(inside.square()).mul(mean), far = j.mul(j.log().sub(log_lambda.unsqueeze(1))).sub(from_peak);
    const at::Tensor fall = at::where(mean.gt(1).logical_and(ratio.abs().lt(0.1)), near, far);
    const at::Tensor scaled = j.mul(alpha_);
    const at::Tensor rest = log_gamma_rest(j).add(log_gamma_rest(scaled)).sub(scaled.log());
    return fall.mul(-steep_).sub(rest).logsumexp(1).add(distance.log());
  }

 private:
  static constexpr size_t kTable = 2048;
  static constexpr double kReach = 6.0, kMore = 8.0;

  struct Nodes {
    double first, distance;
    Nodes(double lambda, double width) : first(std::max(1.0, std::floor(lambda - kReach * width - 1.0))) {
      distance = std::max(1.0, (lambda + kReach * width + kMore - first) / static_cast<double>(kNodes - 1));
    }
  };

  /// g(j); logarithms cancel where both are large.
  double rest(double j) const {
    const double scaled = alpha_ * j;
    if (std::min(j, scaled) >= kStirling) return 2.0 * kHalfLogTwoPi - 0.5 * std::log(alpha_) + stirling_rest(j) + stirling_rest(scaled);
    const double log_scaled = std::log(scaled);
    return log_gamma_rest(j, std::log(j)) + log_gamma_rest(scaled, log_scaled) - log_scaled;
  }

  double alpha_ = 1.0, steep_ = 2.0;  // α, 1 + α
  std::shared_ptr<const std::vector<double>> of_terms_;
};

}  // namespace htl::inline v0_1_0::detail
