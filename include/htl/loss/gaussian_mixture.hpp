// SPDX-License-Identifier: Apache-2.0
/// @file gaussian_mixture.hpp
/// @brief GaussianMixture: the density of a number as K normal distributions (a mixture density network).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/positive.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/log.h>
#include <ATen/ops/logsumexp.h>

#include <numbers>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices of GaussianMixture.
struct GaussianMixtureOptions {
  /// K
  int64_t components = 3;
  /// σ_k is at least this, in the target's unit: without it, a component on a single label gains without end.
  double sigma_floor = 1e-3;
  /// σ_k is at most this.
  double max_sigma = 1e6;
};

/// @brief l = −log Σ_k π_k·N(y; μ_k, σ_k), π = softmax(a), σ = softplus(s) held in [sigma_floor, max_sigma].
///
/// Width 3K: a_1 … a_K, μ_1 … μ_K, s_1 … s_K. Targets: any finite number; a label transform may stand on the task, the density is then the target's.
/// The prediction is Σ π_k μ_k. Gradient: π_k − r_k, r_k·(μ_k − y)/σ_k², and r_k·(1 − ((y − μ_k)/σ_k)²)/σ_k·σ(s_k), with the responsibilities r; 0 in s where σ
/// is held. Computed in log space; finite while ((y − μ)/sigma_floor)² fits the type. O(B·K). Any device, no synchronisation. Of outputs far out, float32 rows
/// keep few digits of the gradient, since terms beyond 2^24 (float64: 2^53) swamp others; `reduced` on the CPU works in fp64.
///
/// Source: Bishop, Mixture Density Networks, 1994, eq. 22–29.
struct GaussianMixture {
  /// @brief With its options.
  /// @throws c10::ValueError for components < 1 or bounds of σ that are not 0 < least ≤ most < ∞
  explicit GaussianMixture(GaussianMixtureOptions choices = {}) : options(choices) {
    HTL_CHECK(options.components >= 1, "htl::GaussianMixture: expected at least 1 component, got ", options.components);
    HTL_CHECK(options.sigma_floor > 0.0 && options.max_sigma >= options.sigma_floor && std::isfinite(options.max_sigma),
              "htl::GaussianMixture: expected 0 < sigma_floor ≤ max_sigma < ∞, got ", options.sigma_floor, " and ", options.max_sigma);
  }
  /// What it was made with.
  GaussianMixtureOptions options;

  /// @brief "gaussian_mixture"
  std::string name() const { return "gaussian_mixture"; }
  /// @brief 3K
  int64_t output_width() const { return 3 * options.components; }
  /// @brief components, sigma_floor, max_sigma
  Options parameters() const { return {{"components", options.components}, {"sigma_floor", options.sigma_floor}, {"max_sigma", options.max_sigma}}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from outputs [B, 3K] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& targets) const {
    check_shape("htl::GaussianMixture", "outputs", outputs, {-1, output_width()});
    check_shape("htl::GaussianMixture", "targets", targets, {outputs.size(0)});
    const int64_t count = options.components;
    const at::Tensor sigma = detail::positive(outputs.narrow(1, 2 * count, count), options.sigma_floor, options.max_sigma);
    const at::Tensor distance = targets.to(outputs.scalar_type()).unsqueeze(1).sub(outputs.narrow(1, count, count)).div(sigma);
    const at::Tensor density = distance.square().mul(-0.5).sub(sigma.log()).sub(detail::kHalfLogTwoPi);
    return at::logsumexp(outputs.narrow(1, 0, count).log_softmax(1).add(density), {1}).neg();
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief Σ π_k μ_k [B], in the target's space.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check_shape("htl::GaussianMixture", "outputs", output, {-1, output_width()});
    const int64_t count = options.components;
    return output.narrow(1, 0, count).softmax(1).mul(output.narrow(1, count, count)).sum(1);
  }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    const size_t count = static_cast<size_t>(options.components);
    const double *logit = output, *mu = output + count, *scale = output + 2 * count;
    double *by_logit = slope, *by_mu = slope + count, *by_scale = slope + 2 * count;
    const double top_logit = *std::max_element(logit, logit + count);
    double top = -std::numeric_limits<double>::infinity();
    for (size_t k = 0; k < count; ++k) {
      const detail::Positive sigma(scale[k], options.sigma_floor, options.max_sigma);
      const double inverse = 1.0 / sigma.value, distance = (target - mu[k]) * inverse;
      by_logit[k] = logit[k] - 0.5 * distance * distance + std::log(inverse);
      by_mu[k] = -distance * inverse;
      by_scale[k] = (1.0 - distance * distance) * inverse * sigma.slope;
      top = std::isnan(by_logit[k]) ? by_logit[k] : std::max(top, by_logit[k]);
    }
    double priors = 0.0, joint = 0.0;
    for (size_t k = 0; k < count; ++k) {
      joint += std::exp(by_logit[k] - top);
      priors += std::exp(logit[k] - top_logit);
    }
    for (size_t k = 0; k < count; ++k) {
      const double responsibility = std::exp(by_logit[k] - top) / joint;
      by_logit[k] = std::exp(logit[k] - top_logit) / priors - responsibility;
      by_mu[k] *= responsibility;
      by_scale[k] *= responsibility;
    }
    return (top_logit + std::log(priors)) - (top + std::log(joint)) + detail::kHalfLogTwoPi;
  }
};

}  // namespace htl
