// SPDX-License-Identifier: Apache-2.0
/// @file log_normal.hpp
/// @brief LogNormal: the likelihood of a positive label whose logarithm is normal.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/gamma_function.hpp>
#include <htl/loss/detail/positive.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/special_ndtri.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief Which number of a predicted distribution is the prediction.
enum class DistributionPredict {
  mean,   ///< the mean: right for sums, moved by the tail
  median  ///< the median: right for |x − y|
};

namespace detail {

inline const char* to_string(DistributionPredict predicts) { return predicts == DistributionPredict::mean ? "mean" : "median"; }

/// −log density of log y at (μ, s), without the −log y of the change of variables: ½ z² + log σ + ½ log 2π.
inline at::Tensor log_normal_rows(const at::Tensor& log_y, const at::Tensor& mu, const at::Tensor& sigma) {
  return log_y.sub(mu).div(sigma).square().mul(0.5).add(sigma.log()).add(kHalfLogTwoPi);
}
/// The same plus log y for one row; writes the slopes in μ and s.
inline double log_normal_row(double log_y, double mu, const Positive& sigma, double* slope) {
  const double rate = 1.0 / sigma.value, z = (log_y - mu) * rate;
  slope[0] = -z * rate;
  slope[1] = (1.0 - z * z) * rate * sigma.slope;
  return 0.5 * z * z + std::log(sigma.value) + kHalfLogTwoPi + log_y;
}

}  // namespace detail

/// @brief Choices of LogNormal.
struct LogNormalOptions {
  double sigma_floor = 1e-3;                                 ///< the least σ
  double max_sigma = 1e6;                                    ///< the largest σ
  DistributionPredict predicts = DistributionPredict::mean;  ///< the prediction
};

/// @brief l = ½((log y − μ)/σ)² + log σ + ½ log 2π + log y, of outputs (μ, s) and a label y > 0; σ = softplus(s), held in [sigma_floor, max_sigma].
///
/// dl/dμ = −(log y − μ)/σ², dl/ds = (1 − ((log y − μ)/σ)²)/σ · dσ/ds, 0 where σ is held. μ and σ are those of log y: no unit for σ, and a label in another unit
/// moves μ by a constant. Labels below 1.2e-38, as in rows without one, count as that. The mean is e^{μ+σ²/2}, with the exponent continued linearly above 80;
/// it grows fast with σ, hence max_sigma. Predictions are finite: from an exponent of 6000 on they are constant. Any device, no synchronisation; one
/// exponential and three logarithms a row.
///
/// Source: the density of e^x for a normal x; softplus and floor as in ziln.hpp's source.
///
///     const htl::LogNormal loss;
///     at::Tensor per_row = loss(outputs, labels);             // [B] from [B, 2] and [B]
///     at::Tensor nine_of_ten = loss.quantile(outputs, 0.9);    // [B]
class LogNormal {
 public:
  /// @brief With floors.
  /// @throws c10::ValueError unless 0 < sigma_floor < max_sigma
  explicit LogNormal(LogNormalOptions options = {}) : options_(options) {
    detail::check_scale("htl::LogNormal", "sigma", options_.sigma_floor, options_.max_sigma);
  }

  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;
  /// @brief "log_normal"
  std::string name() const { return "log_normal"; }
  /// @brief 2: μ and s
  int64_t output_width() const { return 2; }
  /// @brief sigma_floor, max_sigma, predicts
  Options parameters() const {
    return {{"sigma_floor", options_.sigma_floor}, {"max_sigma", options_.max_sigma}, {"predicts", detail::to_string(options_.predicts)}};
  }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief (0, ∞): from the smallest normal float on.
  std::pair<double, double> label_range() const { return {detail::kLeastLabel, std::numeric_limits<double>::infinity()}; }
  /// @brief The choices.
  const LogNormalOptions& options() const { return options_; }

  /// @brief [B] from outputs [B, 2] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const {
    check(outputs);
    check_shape("htl::LogNormal", "labels", labels, {outputs.size(0)});
    const at::Tensor log_y = detail::log_label(labels.to(outputs.scalar_type()));
    return detail::log_normal_rows(log_y, outputs.select(1, 0), sigma(outputs)).add(log_y);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief The mean or the median [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    return options_.predicts == DistributionPredict::mean ? mean(output) : median(output);
  }
  /// @brief [B] e^{μ+σ²/2}
  at::Tensor mean(const at::Tensor& outputs) const {
    check(outputs);
    return detail::held_exp(outputs.select(1, 0).add(sigma(outputs).square().mul(0.5)));
  }
  /// @brief [B] e^μ
  at::Tensor median(const at::Tensor& outputs) const {
    check(outputs);
    return detail::held_exp(outputs.select(1, 0));
  }
  /// @brief [B] e^{μ + σ Φ⁻¹(q)}
  /// @throws c10::ValueError unless q is in (0, 1)
  at::Tensor quantile(const at::Tensor& outputs, double q) const {
    check(outputs);
    HTL_CHECK(q > 0.0 && q < 1.0, "htl::LogNormal: expected q in (0, 1), got ", q);
    const at::Tensor level = at::scalar_tensor(q, at::TensorOptions(at::kDouble));
    return detail::held_exp(outputs.select(1, 0).add(sigma(outputs).mul(at::special_ndtri(level).item<double>())));
  }
  /// @brief [B] σ
  at::Tensor sigma(const at::Tensor& outputs) const { return detail::positive(outputs.select(1, 1), options_.sigma_floor, options_.max_sigma); }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const {
    return detail::log_normal_row(detail::log_label(*label), output[0], detail::Positive(output[1], options_.sigma_floor, options_.max_sigma), slope);
  }
  /// @brief The same for many rows.
  void rows(const double* outputs, const double* labels, size_t count, double* values, double* slopes) const {
    constexpr size_t n = detail::kRowsPerBlock;
    double sigma[n], slope[n], down[n], log_sigma[n], log_y[n];
    detail::logistic_all(outputs + n, count, slope, down, sigma);
    for (size_t i = 0; i < count; ++i) {
      const double raw = sigma[i] + detail::positive_part(outputs[n + i]);
      sigma[i] = std::min(std::max(raw, options_.sigma_floor), options_.max_sigma);  // NaN stays NaN by the order of the arguments
      slope[i] = detail::kept(slope[i], sigma[i] == raw);
      log_sigma[i] = sigma[i];
      log_y[i] = std::max(labels[i], detail::kLeastLabel);
    }
    detail::log_all(log_sigma, count);
    detail::log_all(log_y, count);
    for (size_t i = 0; i < count; ++i) {
      const double rate = 1.0 / sigma[i], z = (log_y[i] - outputs[i]) * rate;
      slopes[i] = -z * rate;
      slopes[n + i] = (1.0 - z * z) * rate * slope[i];
      values[i] = 0.5 * z * z + log_sigma[i] + detail::kHalfLogTwoPi + log_y[i];
    }
  }

 private:
  static void check(const at::Tensor& outputs) { check_shape("htl::LogNormal", "outputs", outputs, {-1, 2}); }
  LogNormalOptions options_;
};

}  // namespace htl
