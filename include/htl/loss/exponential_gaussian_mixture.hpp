// SPDX-License-Identifier: Apache-2.0
/// @file exponential_gaussian_mixture.hpp
/// @brief ExponentialGaussianMixture: watch time as quick skips, exponential, and K ways to watch, normal and cut at 0 (EGMN).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/gaussian_mixture.hpp>

#include <ATen/ops/log1p.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices of ExponentialGaussianMixture.
struct ExponentialGaussianMixtureOptions {
  /// K
  int64_t components = 10;
  /// The factor of Σ π log π, which keeps components alive.
  double entropy = 0.1;
  /// The factor of |mean − y|.
  double regression = 1.0;
  /// σ_k is at least this, in the label's unit.
  double sigma_floor = 1e-3;
  /// σ_k is at most this.
  double max_sigma = 1e6;
  /// Whether the mean is that of the distribution; false: Σ of π_0/λ and π_k·μ_k, as published, which leaves out that the normals are cut at 0.
  bool truncated_mean = true;
};

/// @brief l = −log[π_0·Exp(y; λ) + Σ_k π_k·N(y; μ_k, σ_k)/Φ(μ_k/σ_k)] + h·Σ π log π + r·|M − y|, for y ≥ 0.
///
/// Width 3K + 2: a_0 … a_K, l, m_1 … m_K, s_1 … s_K. π = softmax(a), λ = softplus(l) + 1e−6, μ_k = softplus(m_k) + 1/λ (watching lasts longer than
/// skipping), σ_k = softplus(s_k) held in [sigma_floor, max_sigma], Φ(μ/σ) the mass of a normal above 0. Labels in [0, ∞), in their own unit. The prediction is
/// the mean M = π_0/λ + Σ π_k·(μ_k + σ_k·φ(μ_k/σ_k)/Φ(μ_k/σ_k)) in the label's unit.
///
/// Gradient into all outputs, through the mean too; 0 in s_k where σ_k is held, and from |M − y| where it is 0. Computed in log space; finite while ((y −
/// μ)/σ)² fits the type; of outputs far out, float32 rows keep few digits of the gradient, `reduced` on the CPU works in fp64. O(B·K). Any device, no
/// synchronisation. Source: Zhao et al., Multi-Granularity Distribution Modeling for Video Watch Time Prediction via Exponential-Gaussian Mixture Network,
/// RecSys 2025; where we differ: the exact mean, and bounds of σ.
struct ExponentialGaussianMixture {
  /// @brief With its options.
  /// @throws c10::ValueError for options out of their range
  explicit ExponentialGaussianMixture(ExponentialGaussianMixtureOptions choices = {}) : options(choices) {
    HTL_CHECK(options.components >= 1, kWho, ": expected at least 1 component, got ", options.components);
    HTL_CHECK(options.entropy >= 0.0 && std::isfinite(options.entropy), kWho, ": expected a finite entropy ≥ 0, got ", options.entropy);
    HTL_CHECK(options.regression >= 0.0 && std::isfinite(options.regression), kWho, ": expected a finite regression ≥ 0, got ", options.regression);
    HTL_CHECK(options.sigma_floor > 0.0 && options.max_sigma >= options.sigma_floor && std::isfinite(options.max_sigma), kWho,
              ": expected 0 < sigma_floor ≤ max_sigma < ∞, got ", options.sigma_floor, " and ", options.max_sigma);
  }
  /// What it was made with.
  ExponentialGaussianMixtureOptions options;

  /// The label's own unit.
  static constexpr bool in_label_unit = true;
  /// @brief "exponential_gaussian_mixture"
  std::string name() const { return "exponential_gaussian_mixture"; }
  /// @brief 3K + 2
  int64_t output_width() const { return 3 * options.components + 2; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }
  /// @brief components, entropy, regression, sigma_floor, max_sigma, truncated_mean
  Options parameters() const {
    return {{"components", options.components},   {"entropy", options.entropy},     {"regression", options.regression},
            {"sigma_floor", options.sigma_floor}, {"max_sigma", options.max_sigma}, {"truncated_mean", options.truncated_mean}};
  }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from outputs [B, 3K + 2] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const {
    check_shape(kWho, "labels", labels, {outputs.size(0)});
    const Parts parts = read(outputs);
    const at::Tensor y = labels.to(outputs.scalar_type()).unsqueeze(1), log_mass = parts.mass.log();
    const at::Tensor skip = parts.lambda.log().sub(parts.lambda.mul(y));
    const at::Tensor watch = y.sub(parts.mu).div(parts.sigma).square().mul(-0.5).sub(parts.sigma.log()).sub(detail::kLogRootTwoPi).sub(log_mass);
    const at::Tensor likelihood = at::logsumexp(parts.log_prior.add(at::cat({skip, watch}, 1)), {1});
    const at::Tensor entropy = parts.log_prior.exp().mul(parts.log_prior).sum(1);
    return likelihood.neg().add(entropy, options.entropy).add(mean_of(parts).sub(y.squeeze(1)).abs(), options.regression);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief M [B], in the label's unit.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return mean_of(read(output)); }

  /// @brief One row in fp64 from its label.
  double row(const double* output, const double* columns, double* slope) const {
    const size_t count = static_cast<size_t>(options.components), all = count + 1;
    const double label = *columns, *logit = output, *mean = output + all + 1, *scale = mean + count;
    double *by_logit = slope, *by_mean = slope + all + 1, *by_scale = by_mean + count;
    const detail::Logistic rate = detail::logistic(output[all]);
    const double lambda = rate.over + kLeastRate, duration = 1.0 / lambda;
    double top_logit = logit[0], priors = 0.0;
    for (size_t k = 1; k < all; ++k) top_logit = std::max(top_logit, logit[k]);
    for (size_t k = 0; k < all; ++k) priors += std::exp(logit[k] - top_logit);
    const double log_priors = top_logit + std::log(priors);

    // First the mean and the highest term, then what needs them: each component is formed twice rather than kept, so that no memory is needed
    double top = logit[0] - std::log(duration) - lambda * label, expected = std::exp(logit[0] - log_priors) * duration, entropy = 0.0;
    for (size_t k = 0; k < all; ++k) {
      const double log_prior = logit[k] - log_priors;
      entropy += std::exp(log_prior) * log_prior;
    }
    by_logit[0] = top;
    for (size_t k = 0; k < count; ++k) {
      const Component one(*this, mean[k], scale[k], duration);
      by_logit[k + 1] = logit[k + 1] + one.log_density(label);
      by_mean[k] = one.mean;
      top = std::isnan(by_logit[k + 1]) ? by_logit[k + 1] : std::max(top, by_logit[k + 1]);
      expected += std::exp(logit[k + 1] - log_priors) * one.mean;
    }
    double joint = 0.0;
    for (size_t k = 0; k < all; ++k) joint += by_logit[k] = std::exp(by_logit[k] - top);
    const double error = expected - label, pull = error == 0.0 ? 0.0 : std::copysign(options.regression, error);
    double by_duration = 0.0;  // through λ itself and all means that start at 1/λ
    for (size_t k = 0; k < all; ++k) {
      const double responsibility = by_logit[k] / joint, log_prior = logit[k] - log_priors, prior = std::exp(log_prior);
      const double own = k == 0 ? duration : by_mean[k - 1];
      by_logit[k] = prior - responsibility + prior * (options.entropy * (log_prior - entropy) + pull * (own - expected));
      if (k == 0) {
        by_duration += responsibility * (1.0 - label * lambda) * lambda + pull * prior;
        continue;
      }
      const Component one(*this, mean[k - 1], scale[k - 1], duration);
      const double by_mu = -responsibility * one.mu_slope(label) + pull * prior * one.mean_by_mu();
      by_duration += by_mu;
      by_mean[k - 1] = by_mu * one.of_mean;
      by_scale[k - 1] = (-responsibility * one.sigma_slope(label) + pull * prior * one.mean_by_sigma()) * one.sigma.slope;
    }
    slope[all] = -by_duration * duration * duration * rate.up;
    return log_priors - (top + std::log(joint)) + options.entropy * entropy + options.regression * std::abs(error);
  }

 private:
  static constexpr const char* kWho = "htl::ExponentialGaussianMixture";
  static constexpr double kLeastRate = 1e-6;

  struct Parts {
    at::Tensor log_prior, lambda, mu, sigma, ratio, mass;
  };
  /// Φ(α) for α > 0, and φ(α)/Φ(α).
  static double mass_above(double alpha) { return 1.0 - 0.5 * std::erfc(alpha * std::numbers::sqrt2 / 2); }

  /// One normal that is cut at 0.
  struct Component {
    detail::Positive sigma;
    double mu, of_mean, alpha, inverse, mass, hazard, mean;
    bool truncated;
    Component(const ExponentialGaussianMixture& loss, double raw_mean, double raw_scale, double duration)
        : sigma(raw_scale, loss.options.sigma_floor, loss.options.max_sigma), truncated(loss.options.truncated_mean) {
      const detail::Logistic beyond = detail::logistic(raw_mean);
      mu = beyond.over + duration;
      of_mean = beyond.up;
      inverse = 1.0 / sigma.value;
      alpha = mu * inverse;
      mass = mass_above(alpha);
      hazard = alpha > 40.0 ? 0.0 : std::exp(-0.5 * alpha * alpha - detail::kLogRootTwoPi) / mass;
      mean = truncated ? mu + sigma.value * hazard : mu;
    }
    double distance(double y) const { return (y - mu) * inverse; }
    double log_density(double y) const { return -0.5 * distance(y) * distance(y) - detail::kLogRootTwoPi + std::log(inverse / mass); }
    double mu_slope(double y) const { return (distance(y) - hazard) * inverse; }
    double sigma_slope(double y) const { return (distance(y) * distance(y) - 1.0 + hazard * alpha) * inverse; }
    double mean_by_mu() const { return truncated ? 1.0 - hazard * (alpha + hazard) : 1.0; }
    double mean_by_sigma() const { return truncated ? hazard + alpha * hazard * (alpha + hazard) : 0.0; }
  };

  Parts read(const at::Tensor& outputs) const {
    check_shape(kWho, "outputs", outputs, {-1, output_width()});
    const int64_t count = options.components;
    Parts parts;
    parts.log_prior = outputs.narrow(1, 0, count + 1).log_softmax(1);
    parts.lambda = detail::softplus(outputs.narrow(1, count + 1, 1)).add(kLeastRate);
    parts.mu = detail::softplus(outputs.narrow(1, count + 2, count)).add(parts.lambda.reciprocal());
    parts.sigma = detail::positive(outputs.narrow(1, 2 * count + 2, count), options.sigma_floor, options.max_sigma);
    parts.ratio = parts.mu.div(parts.sigma);
    parts.mass = at::erfc(parts.ratio.mul(std::numbers::sqrt2 / 2)).mul(-0.5).add(1.0);
    return parts;
  }
  at::Tensor mean_of(const Parts& parts) const {
    at::Tensor mean = parts.mu;
    if (options.truncated_mean) {
      const at::Tensor density = parts.ratio.clamp_max(40.0).square().mul(-0.5).sub(detail::kLogRootTwoPi).exp();
      mean = mean.add(parts.sigma.mul(density).div(parts.mass));
    }
    return parts.log_prior.exp().mul(at::cat({parts.lambda.reciprocal(), mean}, 1)).sum(1);
  }
};

}  // namespace htl
