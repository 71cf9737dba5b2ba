// SPDX-License-Identifier: Apache-2.0
/// @file ziln.hpp
/// @brief ZILN: the zero-inflated log-normal likelihood of spends and times that are often 0 and have a long tail.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/log_normal.hpp>

#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <limits>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief Choices of ZILN; the defaults are google/lifetime_value's.
struct ZILNOptions {
  double sigma_floor = 3.1622776601683794e-4;  ///< the least σ: √1e-7
  double max_sigma = 1e6;                      ///< the largest σ
  double max_log_mean = 80.0;                  ///< the mean's logarithm is held below it; at most 80
  double mu_penalty = 0.0;                     ///< factor of μ², in all rows
  double sigma_penalty = 0.0;                  ///< factor of s², in all rows
  double event_weight = 1.0;                   ///< factor of the log loss of y > 0
  double value_weight = 1.0;                   ///< factor of the log-normal part
  /// Whether the log-normal part is a mean over the positive rows instead of all: rare positives then weigh as much as the zeros, and the loss is no likelihood
  bool mean_over_positives = false;
  DistributionPredict predicts = DistributionPredict::mean;  ///< the prediction

  /// @brief The choices of EasyRec.
  static ZILNOptions easy_rec() { return {.max_sigma = 5.0, .max_log_mean = 20.0, .mu_penalty = 0.01, .sigma_penalty = 0.01, .mean_over_positives = true}; }
};

/// @brief l = c·BCE(a, [y > 0]) + r·[y > 0]·(½((log y − μ)/σ)² + log σ + ½ log 2π + log y) of outputs (a, μ, s) and a label y ≥ 0; σ = softplus(s), held in
/// [sigma_floor, max_sigma].
///
/// With p = σ(a): P(y > 0) = p, and y > 0 is log-normal. dl/da = c(p − [y > 0]); μ and s have slopes in positive rows only (and by the penalties), those of
/// LogNormal; that in s is 0 where σ is held. With c = r = 1 and no penalty it is the negative log-likelihood. Predictions: mean p·e^{μ+σ²/2}, held below
/// e^max_log_mean; median and quantiles are 0 as long as 1 − p covers them. The mean of a heavy tail is large for a few rows: with σ > 3 it says little.
/// Any device, no synchronisation; two exponentials and four logarithms a positive row, one each in others. Finite in float32 while (log y − μ)/σ is
/// below 1.8e19, which no σ ≥ sigma_floor leaves with outputs within ±1e15. Labels below 1.2e-38 and above 0 count as that; NaN gives NaN.
///
/// `mean_over_positives` multiplies the log-normal part of each positive row by Σ w / Σ_{y > 0} w of the batch.
///
/// Source: Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value Prediction, 2019, (3) to (7). Their code averages both parts over all
/// rows; EasyRec's averages the second over the positives and adds penalties.
///
///     const htl::ZILN loss;
///     at::Tensor per_row = loss(outputs, labels);   // [B] from [B, 3] and [B]
///     at::Tensor value = loss.mean(outputs);         // [B] in the label's unit
class ZILN {
 public:
  /// @brief With choices.
  /// @throws c10::ValueError for floors that are not in order, negative weights and a max_log_mean above 80
  explicit ZILN(ZILNOptions options = {}) : options_(options) {
    detail::check_scale("htl::ZILN", "sigma", options_.sigma_floor, options_.max_sigma);
    HTL_CHECK(options_.max_log_mean <= detail::kExpBound, "htl::ZILN: expected a max_log_mean ≤ 80, got ", options_.max_log_mean);
    const std::pair<const char*, double> factors[] = {{"mu_penalty", options_.mu_penalty},
                                                      {"sigma_penalty", options_.sigma_penalty},
                                                      {"event_weight", options_.event_weight},
                                                      {"value_weight", options_.value_weight}};
    for (const auto& [what, factor] : factors) HTL_CHECK(factor >= 0.0 && std::isfinite(factor), "htl::ZILN: expected a finite ", what, " ≥ 0, got ", factor);
  }

  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;
  /// @brief "ziln"
  std::string name() const { return "ziln"; }
  /// @brief 3: a, μ and s
  int64_t output_width() const { return 3; }
  /// @brief All choices.
  Options parameters() const {
    return {{"sigma_floor", options_.sigma_floor},
            {"max_sigma", options_.max_sigma},
            {"max_log_mean", options_.max_log_mean},
            {"mu_penalty", options_.mu_penalty},
            {"sigma_penalty", options_.sigma_penalty},
            {"event_weight", options_.event_weight},
            {"value_weight", options_.value_weight},
            {"mean_over_positives", options_.mean_over_positives},
            {"predicts", detail::to_string(options_.predicts)}};
  }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }
  /// @brief The choices.
  const ZILNOptions& options() const { return options_; }

  /// @brief [B] from outputs [B, 3] and labels [B].
  /// @param outputs [B, 3]
  /// @param labels [B]
  /// @param weight [B] the rows' weights, which `mean_over_positives` reads; undefined = 1 everywhere
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels, const at::Tensor& weight = {}) const {
    check(outputs);
    check_shape("htl::ZILN", "labels", labels, {outputs.size(0)});
    const at::Tensor y = labels.to(outputs.scalar_type()), positive = y.gt(0);
    const at::Tensor a = outputs.select(1, 0), mu = outputs.select(1, 1), s = outputs.select(1, 2);
    const at::Tensor event = detail::softplus(at::where(positive, a.neg(), a));
    const at::Tensor log_y = detail::log_label(y.masked_fill(positive.logical_not(), 1));
    at::Tensor value = detail::log_normal_rows(log_y, mu, sigma(outputs)).add(log_y).masked_fill(positive.logical_not(), 0);
    if (options_.mean_over_positives) value = value.mul(factor(y, weight));
    at::Tensor rows = options_.event_weight == 1.0 ? event : event.mul(options_.event_weight);
    rows = rows.add(value, options_.value_weight).masked_fill(y.isnan(), std::numeric_limits<double>::quiet_NaN());
    if (options_.mu_penalty > 0.0) rows = rows.add(mu.square(), options_.mu_penalty);
    if (options_.sigma_penalty > 0.0) rows = rows.add(s.square(), options_.sigma_penalty);
    return rows;
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label, input.weight); }
  /// @brief Σ share·l in one pass; with mean_over_positives two passes over the labels.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    if (!options_.mean_over_positives || !input.output.is_cpu()) return one_pass(*this, input, input.label, share);
    ZILN scaled = *this;
    scaled.value_factor_ = factor(input.label, share).item<double>();
    return one_pass(scaled, input, input.label, share);
  }
  /// @brief The mean or the median [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    return options_.predicts == DistributionPredict::mean ? mean(output) : median(output);
  }
  /// @brief [B] p·e^{μ+σ²/2}, at most e^max_log_mean
  at::Tensor mean(const at::Tensor& outputs) const {
    check(outputs);
    const at::Tensor log_mean = at::log_sigmoid(outputs.select(1, 0)).add(outputs.select(1, 1)).add(sigma(outputs).square().mul(0.5));
    return log_mean.clamp_max(options_.max_log_mean).exp();
  }
  /// @brief [B] the median
  at::Tensor median(const at::Tensor& outputs) const { return quantile(outputs, 0.5); }
  /// @brief [B] the q-quantile: 0 where q ≤ 1 − p, else e^{μ − σ Φ⁻¹((1 − q)/p)}
  /// @throws c10::ValueError unless q is in (0, 1)
  at::Tensor quantile(const at::Tensor& outputs, double q) const {
    check(outputs);
    HTL_CHECK(q > 0.0 && q < 1.0, "htl::ZILN: expected q in (0, 1), got ", q);
    const at::Tensor above = detail::softplus(outputs.select(1, 0).neg()).add(std::log1p(-q));  // log of P(y > quantile | y > 0), if below 0
    const at::Tensor zero = above.ge(0);
    const at::Tensor z = at::special_ndtri(above.masked_fill(zero, std::log(0.5)).exp().clamp_max(1.0 - 1e-7));  // beyond, its slope has no bound
    return detail::held_exp(outputs.select(1, 1).sub(sigma(outputs).mul(z))).masked_fill(zero, 0);
  }
  /// @brief [B] p, the probability of y > 0
  at::Tensor probability(const at::Tensor& outputs) const {
    check(outputs);
    return outputs.select(1, 0).sigmoid();
  }
  /// @brief [B] σ
  at::Tensor sigma(const at::Tensor& outputs) const { return detail::positive(outputs.select(1, 2), options_.sigma_floor, options_.max_sigma); }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const {
    const detail::Logistic at_a = detail::logistic(output[0]);
    const double c = options_.event_weight, r = options_.value_weight * value_factor_;
    double value;
    if (*label > 0.0) {
      value =
          r * detail::log_normal_row(detail::log_label(*label), output[1], detail::Positive(output[2], options_.sigma_floor, options_.max_sigma), slope + 1) +
          c * at_a.under;
      slope[0] = -c * at_a.down;
      slope[1] *= r;
      slope[2] *= r;
    } else {
      const double zero = std::isnan(*label) ? *label : 0.0;
      value = c * at_a.over + zero;
      slope[0] = c * at_a.up + zero;
      slope[1] = 0.0;
      slope[2] = 0.0;
    }
    slope[1] += 2.0 * options_.mu_penalty * output[1];
    slope[2] += 2.0 * options_.sigma_penalty * output[2];
    return value + options_.mu_penalty * output[1] * output[1] + options_.sigma_penalty * output[2] * output[2];
  }

 private:
  static void check(const at::Tensor& outputs) { check_shape("htl::ZILN", "outputs", outputs, {-1, 3}); }
  /// Σ w / Σ_{y > 0} w; 0 without positive rows.
  static at::Tensor factor(const at::Tensor& labels, const at::Tensor& weight) {
    const at::Tensor positive = labels.gt(0), w = weight.defined() ? weight : at::ones_like(labels);
    const at::Tensor of_positives = w.mul(positive).sum();
    return at::where(of_positives.gt(0), w.sum().div(of_positives), 0.0);
  }
  ZILNOptions options_;
  double value_factor_ = 1.0;
};

}  // namespace htl
