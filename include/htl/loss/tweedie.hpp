// SPDX-License-Identifier: Apache-2.0
/// @file tweedie.hpp
/// @brief Tweedie: losses of a sum of a Poisson number of gamma amounts — often 0, else positive — from the logarithm of its mean.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/positive.hpp>
#include <htl/loss/detail/tweedie_series.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief Which of the Tweedie losses. All have the same minimiser of η.
enum class TweedieForm {
  quasi,      ///< the quasi-likelihood, whose value at the minimum depends on the label
  deviance,   ///< twice the quasi-likelihood less its minimum: 0 where the mean is the label
  likelihood  ///< the negative log-likelihood, with the dispersion
};

/// @brief Choices of Tweedie.
struct TweedieOptions {
  double power = 1.5;                               ///< p in (1, 2): the variance is φ·mean^p
  TweedieForm form = TweedieForm::quasi;            ///< which loss
  std::optional<double> dispersion = std::nullopt;  ///< φ of the likelihood, if it is given; else the second output gives it
  double dispersion_floor = 1e-6;                   ///< the least φ of an output
  double max_dispersion = 1e6;                      ///< the largest φ of an output
};

/// @brief Of an output η = log E[y] and a label y ≥ 0, with μ = e^η:
///
/// - quasi: l = −y μ^{1−p}/(1 − p) + μ^{2−p}/(2 − p), dl/dη = μ^{2−p} − y μ^{1−p};
/// - deviance: l = 2(quasi + y^{2−p}/((1 − p)(2 − p))), the unit deviance;
/// - likelihood: l = deviance/2φ + log y − log Σ_j W_j(y, φ) for y > 0 and μ^{2−p}/(φ(2 − p)) for y = 0: the density of a Poisson number of gamma amounts.
///   φ is given, or the second output's softplus, held in [dispersion_floor, max_dispersion], with slope 0 where it is held.
///
/// Convex in η. The deviance is taken as y^{2−p}((e^{(2−p)d} − 1 − (2−p)d)/(2 − p) + (e^{−(p−1)d} − 1 + (p−1)d)/(p − 1)) near d = η − log y = 0, where powers
/// would cancel. Powers go on as their tangent (in η) above e^80; divided by a φ below 1e-4 they may leave float32 even so: on the CPU slopes are then held at
/// its largest number, elsewhere raise the floor. The series is summed over 48 nodes around its largest term: all terms that matter where they are few, else
/// evenly spaced ones, for a sum of terms that follow a bell is its integral; the error of its logarithm is below 1e-6. Prediction: the mean μ. Any device, no
/// synchronisation; two exponentials and a logarithm a row, for the likelihood 50 in positive rows.
///
/// Source: Jørgensen, Exponential Dispersion Models, 1987; the series: Dunn and Smyth, Series Evaluation of Tweedie Exponential Dispersion Model Densities,
/// 2005, who add terms until they are small.
///
///     at::Tensor per_row = htl::Tweedie{}(log_means, labels);   // [B] from [B] or [B, 1]
class Tweedie {
 public:
  /// @brief With choices.
  /// @throws c10::ValueError unless the power is in (1, 2), and for a dispersion that is not > 0 or that no likelihood reads
  explicit Tweedie(TweedieOptions options = {}) : options_(options), a_(2.0 - options.power), b_(options.power - 1.0) {
    HTL_CHECK(options_.power > 1.0 && options_.power < 2.0, "htl::Tweedie: expected a power in (1, 2), got ", options_.power, "; Poisson has power 1, Gamma 2");
    const bool likelihood = options_.form == TweedieForm::likelihood;
    HTL_CHECK(likelihood || !options_.dispersion, "htl::Tweedie: only the form likelihood reads a dispersion; leave it out");
    if (options_.dispersion) {
      HTL_CHECK(*options_.dispersion > 0.0 && std::isfinite(*options_.dispersion), "htl::Tweedie: expected a finite dispersion > 0, got ",
                *options_.dispersion);
    }
    detail::check_scale("htl::Tweedie", "dispersion", options_.dispersion_floor, options_.max_dispersion);
    if (likelihood) series_ = detail::TweedieSeries(options_.power);
  }

  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;
  /// @brief "tweedie"
  std::string name() const { return "tweedie"; }
  /// @brief 1: η; 2 for a likelihood without a given dispersion
  int64_t output_width() const { return reads_dispersion() ? 2 : 1; }
  /// @brief power, form; of a likelihood also dispersion, or dispersion_floor and max_dispersion
  Options parameters() const {
    Options result{{"power", options_.power}, {"form", to_string(options_.form)}};
    if (options_.dispersion) result.set("dispersion", *options_.dispersion);
    if (reads_dispersion()) {
      result.set("dispersion_floor", options_.dispersion_floor);
      result.set("max_dispersion", options_.max_dispersion);
    }
    return result;
  }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }
  /// @brief The choices.
  const TweedieOptions& options() const { return options_; }

  /// @brief [B] from outputs [B, W], or [B] where W is 1, and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const {
    const at::Tensor eta = log_mean(outputs, labels), y = labels.to(eta.scalar_type());
    const at::Tensor zero = y.le(0), log_y = detail::log_label(y);
    const at::Tensor of_mean = detail::bounded_exp(eta.mul(a_)).div(a_);
    const at::Tensor of_label = detail::bounded_exp(log_y.sub(eta.mul(b_))).div(b_).masked_fill(zero, 0);
    if (options_.form == TweedieForm::quasi) return of_mean.add(of_label);
    const at::Tensor d = eta.sub(log_y), inside = d.clamp(-1, 1), power = log_y.mul(a_).exp();
    const at::Tensor near = detail::exp_rest(inside.mul(a_)).div(a_).add(detail::exp_rest(inside.mul(-b_)).div(b_)).mul(power);
    const at::Tensor far = of_mean.add(of_label).sub(power.masked_fill(zero, 0).div(a_ * b_));
    const at::Tensor half = at::where(d.abs().lt(1).logical_and(zero.logical_not()), near, far);
    if (options_.form == TweedieForm::deviance) return half.mul(2);
    const at::Tensor phi = dispersion(outputs), log_phi = phi.log();
    const at::Tensor series = series_.log_sum(log_y.masked_fill(zero, 0).mul(a_).sub(log_phi).sub(std::log(a_)));
    return half.div(phi).add(log_y.sub(series).masked_fill(zero, 0));
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(reads_dispersion() ? detail::counting_outputs(input) : input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief The mean e^η [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check_shape("htl::Tweedie", "outputs", output, {-1, output_width()});
    return detail::bounded_exp(output.select(1, 0));
  }
  /// @brief [B] φ of a likelihood
  at::Tensor dispersion(const at::Tensor& outputs) const {
    HTL_CHECK_STATE(options_.form == TweedieForm::likelihood, "htl::Tweedie: the form \"", to_string(options_.form), "\" has no dispersion");
    if (reads_dispersion()) return detail::positive(outputs.select(1, 1), options_.dispersion_floor, options_.max_dispersion);
    return at::full_like(outputs.dim() == 2 ? outputs.select(1, 0) : outputs, *options_.dispersion);
  }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const {
    const double eta = output[0], y = *label;
    if (std::isnan(y)) {
      std::fill(slope, slope + output_width(), y);
      return y;
    }
    const detail::BoundedExp of_mean(a_ * eta);
    double value = of_mean.value / a_, by_eta = of_mean.slope, log_y = 0.0;
    const bool positive = y > 0.0;
    if (positive) {
      log_y = detail::log_label(y);
      const detail::BoundedExp of_label(log_y - b_ * eta);
      value += of_label.value / b_;
      by_eta -= of_label.slope;
      if (options_.form != TweedieForm::quasi) {
        const double power = std::exp(a_ * log_y), d = eta - log_y;
        const bool near = std::abs(d) < 0.02;
        value = near ? power * (detail::exp_rest(a_ * d, 1.0) / a_ + detail::exp_rest(-b_ * d, 1.0) / b_) : value - power / (a_ * b_);
      }
    }
    if (options_.form != TweedieForm::likelihood) {
      const double scale = options_.form == TweedieForm::deviance ? 2.0 : 1.0;
      slope[0] = scale * by_eta;
      return scale * value;
    }
    double phi = options_.dispersion.value_or(0.0), phi_slope = 0.0;
    if (!options_.dispersion) {
      const detail::Positive read(output[1], options_.dispersion_floor, options_.max_dispersion);
      phi = read.value;
      phi_slope = read.slope;
    }
    slope[0] = by_eta / phi;
    value /= phi;
    double by_log_phi = -value;
    if (positive) {
      double by_log_lambda = 0.0;
      value += log_y - series_.log_sum(a_ * log_y - std::log(phi * a_), by_log_lambda);
      by_log_phi += by_log_lambda;
    }
    if (!options_.dispersion) slope[1] = by_log_phi / phi * phi_slope;
    return value;
  }

 private:
  static const char* to_string(TweedieForm form) { return form == TweedieForm::quasi ? "quasi" : form == TweedieForm::deviance ? "deviance" : "likelihood"; }
  bool reads_dispersion() const { return options_.form == TweedieForm::likelihood && !options_.dispersion; }
  at::Tensor log_mean(const at::Tensor& outputs, const at::Tensor& labels) const {
    if (!reads_dispersion()) return detail::column("htl::Tweedie", outputs, labels);
    check_shape("htl::Tweedie", "outputs", outputs, {-1, 2});
    check_shape("htl::Tweedie", "labels", labels, {outputs.size(0)});
    return outputs.select(1, 0);
  }
  TweedieOptions options_;
  double a_, b_;  // 2 − p, p − 1
  detail::TweedieSeries series_;
};

}  // namespace htl
