// SPDX-License-Identifier: Apache-2.0
/// @file exponential_gaussian_mixture.hpp
/// @brief ExponentialGaussianMixture: watch time as quick skips, exponential, and K ways to watch, normal and cut at 0 (EGMN).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/exponentials.hpp>
#include <htl/loss/gaussian_mixture.hpp>

#include <ATen/ops/log1p.h>

#include <algorithm>
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
    const at::Tensor watch = y.sub(parts.mu).div(parts.sigma).square().mul(-0.5).sub(parts.sigma.log()).sub(detail::kHalfLogTwoPi).sub(log_mass);
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
    constexpr size_t n = detail::kRowsPerBlock;
    const size_t width = static_cast<size_t>(output_width());
    std::vector<double> outputs(n * width), slopes(n * width);
    double value = 0.0;
    for (size_t j = 0; j < width; ++j) outputs[n * j] = output[j];
    rows(outputs.data(), columns, 1, &value, slopes.data());
    for (size_t j = 0; j < width; ++j) slope[j] = slopes[n * j];
    return value;
  }
  /// @brief The same for many rows.
  void rows(const double* outputs, const double* labels, size_t count, double* values, double* slopes) const {
    Block block(static_cast<size_t>(options.components), count);
    form_rates(outputs, block);
    form_priors(outputs, slopes, block);
    form_components(outputs, labels, slopes, block);
    form_values(labels, values, block);
    form_slopes(outputs, labels, slopes, block);
  }

 private:
  static constexpr const char* kWho = "htl::ExponentialGaussianMixture";
  static constexpr double kLeastRate = 1e-6;

  /// What rows() forms on the way, of each row; terms, means and ratios of each component too. Row i of component k stands at [n·k + i].
  struct Block {
    static constexpr size_t n = detail::kRowsPerBlock;
    Block(size_t normals, size_t rows)
        : components(normals),
          all(normals + 1),
          count(rows),
          numbers(n * (4 * components + all)),
          mu(numbers.data()),
          sigma(mu + n * components),
          mean(sigma + n * components),
          hazard(mean + n * components),
          term(hazard + n * components) {}
    size_t components, all, count;
    std::vector<double> numbers;
    double *mu, *sigma, *mean, *hazard;                         // of the normals; hazard is φ/Φ of μ/σ
    double* term;                                               // log π_k·density + log Σ e^a, then the responsibilities
    double lambda[n], duration[n], rate_slope[n], log_rate[n];  // λ, 1/λ, dλ/dl, log λ
    double log_priors[n], entropy[n];                           // log Σ e^a, Σ π log π
    double expected[n], best[n], pull[n];                       // M, the highest term, r·sign(M − y)
  };
  /// What is not below e^−600 of the highest, so that no products of small numbers are subnormal and slow. NaN stays NaN.
  static double no_less(double exponent) { return exponent < -600.0 ? -600.0 : exponent; }

  static void form_rates(const double* outputs, Block& block) {
    constexpr size_t n = Block::n;
    const double* const raw = outputs + n * block.all;
    double unused[n];
    detail::logistic_all(raw, block.count, block.rate_slope, unused, block.lambda);
    for (size_t i = 0; i < block.count; ++i) {
      block.log_rate[i] = block.lambda[i] += detail::positive_part(raw[i]) + kLeastRate;
      block.duration[i] = 1.0 / block.lambda[i];
    }
    detail::log_all(block.log_rate, block.count);
  }
  /// π_k stand where the slopes of a_k will.
  static void form_priors(const double* outputs, double* priors, Block& block) {
    constexpr size_t n = Block::n;
    double top[n], sum[n];
    std::copy_n(outputs, block.count, top);
    std::fill_n(sum, block.count, 0.0);
    for (size_t k = 1; k < block.all; ++k)
      for (size_t i = 0; i < block.count; ++i) top[i] = std::max(top[i], outputs[n * k + i]);
    for (size_t k = 0; k < block.all; ++k) {
      double* const prior = priors + n * k;
      for (size_t i = 0; i < block.count; ++i) prior[i] = no_less(outputs[n * k + i] - top[i]);
      detail::exp_all(prior, block.count);
      for (size_t i = 0; i < block.count; ++i) sum[i] += prior[i];
    }
    std::copy_n(sum, block.count, block.log_priors);
    detail::log_all(block.log_priors, block.count);
    for (size_t i = 0; i < block.count; ++i) {
      block.log_priors[i] += top[i];
      sum[i] = 1.0 / sum[i];
      block.entropy[i] = 0.0;
    }
    for (size_t k = 0; k < block.all; ++k)
      for (size_t i = 0; i < block.count; ++i) {
        double& prior = priors[n * k + i];
        prior *= sum[i];
        block.entropy[i] += prior * (outputs[n * k + i] - block.log_priors[i]);
      }
  }
  /// Their densities, the mean and the highest term; dμ_k/dm_k and dσ_k/ds_k stand where the slopes of m_k and s_k will.
  void form_components(const double* outputs, const double* labels, double* slopes, Block& block) const {
    constexpr size_t n = Block::n;
    double unused[n], ratio[n], mass[n];
    for (size_t i = 0; i < block.count; ++i) {
      block.best[i] = block.term[i] = outputs[i] + block.log_rate[i] - block.lambda[i] * labels[i];
      block.expected[i] = slopes[i] * block.duration[i];
    }
    for (size_t k = 0; k < block.components; ++k) {
      const double *const raw_mean = outputs + n * (block.all + 1 + k), *const raw_sigma = raw_mean + n * block.components;
      double *const of_mean = slopes + n * (block.all + 1 + k), *const of_sigma = of_mean + n * block.components;
      double *const mu = block.mu + n * k, *const sigma = block.sigma + n * k, *const hazard = block.hazard + n * k, *const mean = block.mean + n * k;
      detail::logistic_all(raw_mean, block.count, of_mean, unused, mu);
      detail::logistic_all(raw_sigma, block.count, of_sigma, unused, sigma);
      for (size_t i = 0; i < block.count; ++i) {
        mu[i] += detail::positive_part(raw_mean[i]) + block.duration[i];
        const double raw = sigma[i] + detail::positive_part(raw_sigma[i]);
        sigma[i] = std::min(std::max(raw, options.sigma_floor), options.max_sigma);  // NaN stays NaN by the order of the arguments
        of_sigma[i] = detail::kept(of_sigma[i], sigma[i] == raw);
        ratio[i] = mu[i] / sigma[i];
      }
      detail::normal_all(ratio, block.count, mass, hazard);
      for (size_t i = 0; i < block.count; ++i) mass[i] *= sigma[i];
      detail::log_all(mass, block.count);
      const double *const logit = outputs + n * (k + 1), *const prior = slopes + n * (k + 1);
      double* const term = block.term + n * (k + 1);
      for (size_t i = 0; i < block.count; ++i) {
        const double distance = (labels[i] - mu[i]) / sigma[i];
        term[i] = logit[i] - 0.5 * distance * distance - detail::kHalfLogTwoPi - mass[i];
        block.best[i] = std::max(block.best[i], term[i]);
        mean[i] = options.truncated_mean ? mu[i] + sigma[i] * hazard[i] : mu[i];
        block.expected[i] += prior[i] * mean[i];
      }
    }
  }
  /// The losses, and the responsibilities.
  void form_values(const double* labels, double* values, Block& block) const {
    constexpr size_t n = Block::n;
    double sum[n];
    std::fill_n(sum, block.count, 0.0);
    for (size_t k = 0; k < block.all; ++k) {
      double* const term = block.term + n * k;
      for (size_t i = 0; i < block.count; ++i) term[i] = no_less(term[i] - block.best[i]);
      detail::exp_all(term, block.count);
      for (size_t i = 0; i < block.count; ++i) sum[i] += term[i];
    }
    std::copy_n(sum, block.count, values);
    detail::log_all(values, block.count);
    for (size_t i = 0; i < block.count; ++i) {
      const double error = block.expected[i] - labels[i];
      block.pull[i] = detail::kept(std::copysign(options.regression, error), error != 0.0);
      values[i] = block.log_priors[i] - (block.best[i] + values[i]) + options.entropy * block.entropy[i] + options.regression * std::abs(error);
      sum[i] = 1.0 / sum[i];
    }
    for (size_t k = 0; k < block.all; ++k)
      for (size_t i = 0; i < block.count; ++i) block.term[n * k + i] *= sum[i];
  }
  void form_slopes(const double* outputs, const double* labels, double* slopes, const Block& block) const {
    constexpr size_t n = Block::n;
    double by_duration[n];  // through λ itself, and all means, which start at 1/λ
    for (size_t i = 0; i < block.count; ++i) by_duration[i] = block.term[i] * (1.0 - labels[i] * block.lambda[i]) * block.lambda[i] + block.pull[i] * slopes[i];
    for (size_t k = 0; k < block.components; ++k) {
      const double *const mus = block.mu + n * k, *const sigmas = block.sigma + n * k, *const hazards = block.hazard + n * k;
      const double *const term = block.term + n * (k + 1), *const prior = slopes + n * (k + 1);
      double *const by_mean = slopes + n * (block.all + 1 + k), *const by_scale = by_mean + n * block.components;
      for (size_t i = 0; i < block.count; ++i) {
        const double rate = 1.0 / sigmas[i], hazard = hazards[i], alpha = mus[i] * rate, distance = (labels[i] - mus[i]) * rate;
        const double bend = options.truncated_mean ? hazard * (alpha + hazard) : 0.0, mean_by_sigma = options.truncated_mean ? hazard + alpha * bend : 0.0;
        const double pull = block.pull[i] * prior[i], share = term[i] * rate, by_mu = pull * (1.0 - bend) - share * (distance - hazard);
        by_duration[i] += by_mu;
        by_mean[i] *= by_mu;
        by_scale[i] *= pull * mean_by_sigma - share * (distance * distance - 1.0 + hazard * alpha);
      }
    }
    for (size_t k = 0; k < block.all; ++k) {
      const double* const mean = k == 0 ? block.duration : block.mean + n * (k - 1);
      for (size_t i = 0; i < block.count; ++i) {
        const double log_prior = outputs[n * k + i] - block.log_priors[i], prior = slopes[n * k + i];
        const double of_prior = 1.0 + options.entropy * (log_prior - block.entropy[i]) + block.pull[i] * (mean[i] - block.expected[i]);
        slopes[n * k + i] = prior * of_prior - block.term[n * k + i];
      }
    }
    for (size_t i = 0; i < block.count; ++i) slopes[n * block.all + i] = -by_duration[i] * block.duration[i] * block.duration[i] * block.rate_slope[i];
  }

  struct Parts {
    at::Tensor log_prior, lambda, mu, sigma, ratio, mass;
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
      const at::Tensor density = parts.ratio.clamp_max(40.0).square().mul(-0.5).sub(detail::kHalfLogTwoPi).exp();
      mean = mean.add(parts.sigma.mul(density).div(parts.mass));
    }
    return parts.log_prior.exp().mul(at::cat({parts.lambda.reciprocal(), mean}, 1)).sum(1);
  }
};

}  // namespace htl
