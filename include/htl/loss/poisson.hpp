// SPDX-License-Identifier: Apache-2.0
/// @file poisson.hpp
/// @brief Poisson: the likelihood of counts, from the logarithm of their mean.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/gamma_function.hpp>
#include <htl/loss/detail/positive.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/where.h>

#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief l = e^η − yη + log Γ(y + 1) for an output η = log E[y] and a label y ≥ 0, a count; also for y in between (then no likelihood).
///
/// dl/dη = e^η − y. Convex in η. With d = η − log y it is computed as y(e^d − 1 − d) + (log Γ(y + 1) − y log y + y), whose terms do not cancel, so that large
/// counts keep their precision. e^η goes on as its tangent above η = 80, with a slope of at most e^80: finite, in float32 up to η = 6,200. `full = false`
/// leaves log Γ(y + 1) out, which no gradient sees. The prediction is the mean e^η. Any device, no synchronisation; one exponential a row, and one or two
/// logarithms unless y is a count below 16.
///
/// Source: McCullagh and Nelder, Generalized Linear Models, 1989, ch. 6; the arrangement of terms is ours.
///
///     at::Tensor per_row = htl::Poisson{}(log_rates, counts);   // [B]
struct Poisson {
  /// Whether log Γ(y + 1) is there
  bool full = true;

  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;
  /// @brief "poisson"
  std::string name() const { return "poisson"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief full
  Options parameters() const { return {{"full", full}}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }

  /// @brief [B] from logarithms of rates [B] or [B, 1] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& log_rates, const at::Tensor& labels) const {
    const at::Tensor eta = detail::column("htl::Poisson", log_rates, labels), y = labels.to(eta.scalar_type());
    if (!full) return detail::bounded_exp(eta).sub(y.mul(eta));
    const at::Tensor d = eta.sub(detail::log_label(y));
    const at::Tensor near = y.mul(detail::exp_rest(d.clamp(-1, 1))), far = detail::bounded_exp(eta).sub(y.mul(d.add(1)));
    return at::where(d.abs().lt(1), near, far).add(detail::log_gamma_rest(y));
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief The mean e^η [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::bounded_exp(detail::column("htl::Poisson", output)); }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const {
    const double eta = *output, y = *label;
    const detail::BoundedExp rate(eta);
    *slope = rate.slope - y;
    if (!full) return rate.value - y * eta;
    if (y >= 0.0 && y < 16.0 && y == std::floor(y)) return rate.value - y * eta + kLogFactorial[static_cast<size_t>(y)];
    const double log_y = detail::log_label(y), d = eta - log_y, rest = detail::log_gamma_rest(y, log_y);
    return std::abs(d) < 0.02 ? y * detail::exp_rest(d, 0.0) + rest : rate.value - y * (1.0 + d) + rest;
  }

 private:
  /// log y! of small counts.
  static constexpr std::array<double, 16> kLogFactorial = {0.0,
                                                           0.0,
                                                           0.69314718055994530942,
                                                           1.7917594692280550008,
                                                           3.1780538303479456197,
                                                           4.7874917427820459942,
                                                           6.5792512120101009951,
                                                           8.5251613610654143002,
                                                           10.604602902745250228,
                                                           12.801827480081469611,
                                                           15.104412573075515295,
                                                           17.502307845873885839,
                                                           19.987214495661886150,
                                                           22.552163853123422886,
                                                           25.191221182738681500,
                                                           27.899271383840891566};
};

}  // namespace htl
