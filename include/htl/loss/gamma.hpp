// SPDX-License-Identifier: Apache-2.0
/// @file gamma.hpp
/// @brief Gamma: the likelihood of a positive label whose spread is proportional to its mean.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/gamma_function.hpp>
#include <htl/loss/detail/positive.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/full_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief Choices of Gamma and ZeroInflatedGamma.
struct GammaOptions {
  std::optional<double> shape = std::nullopt;  ///< k, if it is given; else the last output gives it
  double shape_floor = 1e-3;                   ///< the least k of an output
  double max_shape = 1e6;                      ///< the largest k of an output
};

namespace detail {

/// What Gamma and ZeroInflatedGamma share: k(e^d − 1 − d) + r(k) − log k + log y, d = log y − η.
class GammaRows {
 public:
  GammaRows(std::string_view who, GammaOptions choices) : options(choices) {
    if (options.shape) {
      HTL_CHECK(*options.shape > 0.0 && std::isfinite(*options.shape), who, ": expected a finite shape > 0, got ", *options.shape);
      const double log_shape = std::log(*options.shape);
      fixed_ = log_gamma_rest(*options.shape, log_shape) - log_shape;
      bound_ = bound(log_shape);
    }
    check_scale(who, "shape", options.shape_floor, options.max_shape);
  }
  int64_t width() const { return options.shape ? 1 : 2; }
  Options parameters() const {
    if (options.shape) return {{"shape", *options.shape}};
    return {{"shape_floor", options.shape_floor}, {"max_shape", options.max_shape}};
  }
  /// k [B] of the outputs (η, or η and that of k).
  at::Tensor shape(const at::Tensor& outputs) const {
    if (options.shape) return at::full_like(outputs.select(1, 0), *options.shape);
    return positive(outputs.select(1, 1), options.shape_floor, options.max_shape);
  }
  /// [B] of the outputs and log y.
  at::Tensor rows(const at::Tensor& outputs, const at::Tensor& log_y) const {
    const at::Tensor d = log_y.sub(outputs.select(1, 0));
    if (options.shape) return exp_rest(d, at::full_like(d, bound_)).mul(*options.shape).add(log_y).add(fixed_);
    const at::Tensor k = shape(outputs), log_k = k.log();
    return exp_rest(d, log_k.relu().neg().add(kExpBound)).mul(k).add(log_gamma_rest(k)).sub(log_k).add(log_y);
  }
  double row(const double* output, double log_y, double* slope) const {
    const double d = log_y - output[0];
    if (options.shape) {
      const BoundedExp ratio(d, bound_);  // y / mean
      slope[0] = -*options.shape * (ratio.slope - 1.0);
      return *options.shape * exp_rest(d, ratio.value) + log_y + fixed_;
    }
    const Positive k(output[1], options.shape_floor, options.max_shape);
    const double log_k = std::log(k.value), most = bound(log_k);
    const BoundedExp ratio(d, most);
    const double rest = exp_rest(d, ratio.value);
    const double by_k = log_k > 0.0 && d > most ? ratio.slope - 1.0 - d : rest;  // there the bound moves with k
    slope[0] = -k.value * (ratio.slope - 1.0);
    slope[1] = k.slope == 0.0 ? k.slope : (by_k + digamma_rest(k.value, log_k) - 1.0 / k.value) * k.slope;
    return k.value * rest + log_gamma_rest(k.value, log_k) - log_k + log_y;
  }
  GammaOptions options;

 private:
  /// Where e^d goes on as its tangent, so that k·e^d stays below e^80.
  static double bound(double log_k) { return kExpBound - std::max(log_k, 0.0); }
  double fixed_ = 0.0, bound_ = kExpBound;  // r(k) − log k, and the bound, of a given shape
};

}  // namespace detail

/// @brief l = −log of the gamma density of mean e^η and shape k: k(y/e^η + η − log y) + log Γ(k) − k log k + log y, of a label y > 0.
///
/// Outputs: η, and the second one's softplus as k, held in [shape_floor, max_shape]; with a given `shape` η alone. The variance is mean²/k. dl/dη = k(1 −
/// y/e^η): with k given, the minimiser of η is the log of the mean, whatever the label's distribution. dl/dk = e^d − 1 − d + ψ(k + 1) − log k − 1/k with d =
/// log y − η, 0 where k is held. Convex in η. Computed as k(e^d − 1 − d) + (log Γ(k + 1) − k log k + k) − log k + log y, whose terms do not cancel; e^d goes on
/// as its tangent where k·e^d or e^d is above e^80, so that float32 holds values and slopes up to d = 6,200. Labels below 1.2e-38, as in rows without one,
/// count as that. Any device, no synchronisation; two exponentials and about six logarithms a row with k an output, one each with k given.
///
/// Source: McCullagh and Nelder, Generalized Linear Models, 1989, ch. 8, with 1/k as the dispersion; the arrangement of terms is ours.
///
///     const htl::Gamma loss;
///     at::Tensor per_row = loss(outputs, labels);   // [B] from [B, 2] and [B]
class Gamma {
 public:
  /// @brief With choices.
  /// @throws c10::ValueError unless shape and bounds are > 0 and in order
  explicit Gamma(GammaOptions options = {}) : rows_("htl::Gamma", options) {}

  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;
  /// @brief "gamma"
  std::string name() const { return "gamma"; }
  /// @brief 2: η and that of k; 1 with a given shape
  int64_t output_width() const { return rows_.width(); }
  /// @brief shape; or shape_floor and max_shape
  Options parameters() const { return rows_.parameters(); }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief (0, ∞): from the smallest normal float on.
  std::pair<double, double> label_range() const { return {detail::kLeastLabel, std::numeric_limits<double>::infinity()}; }

  /// @brief [B] from outputs [B, W] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const {
    check(outputs);
    check_shape("htl::Gamma", "labels", labels, {outputs.size(0)});
    return rows_.rows(outputs, detail::log_label(labels.to(outputs.scalar_type())));
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(detail::counting_outputs(input), input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief The mean e^η [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check(output);
    return detail::bounded_exp(output.select(1, 0));
  }
  /// @brief [B] k
  at::Tensor shape(const at::Tensor& outputs) const {
    check(outputs);
    return rows_.shape(outputs);
  }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const { return rows_.row(output, detail::log_label(*label), slope); }

 private:
  void check(const at::Tensor& outputs) const { check_shape("htl::Gamma", "outputs", outputs, {-1, output_width()}); }
  detail::GammaRows rows_;
};

}  // namespace htl
