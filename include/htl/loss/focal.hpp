// SPDX-License-Identifier: Apache-2.0
/// @file focal.hpp
/// @brief Focal: log loss of a rare event, with easy rows turned down.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/exp.h>

#include <cmath>
#include <optional>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief l = −a·y·(1 − p)^γ log p − b·(1 − y)·p^γ log(1 − p) for p = σ(z) of a logit z and a label y in [0, 1]; a = α, b = 1 − α, or both 1 without α.
///
/// dl/dz = a·y·(1 − p)^γ (γ p log p − (1 − p)) for an event, and the same with the sign and p turned round for none. γ = 0 without α is the log loss. p is
/// fitted to the focal loss, not to the frequency: it is drawn towards ½ and needs calibration where its size matters. Powers are taken as e^{−γ·softplus}, so
/// logits of any size give finite values and slopes. Not convex in z for γ > 0. Any device, no synchronisation.
///
/// Source: Lin and others, Focal Loss for Dense Object Detection, 2017, (5); they take γ = 2, α = ¼. A soft label is the mixture of both cases.
///
///     at::Tensor per_row = htl::Focal(2.0, 0.25)(logits, labels);   // [B]
struct Focal {
  /// @brief With γ ≥ 0 and, if given, the events' weight α.
  /// @throws c10::ValueError unless γ is finite and ≥ 0, and α in (0, 1)
  explicit Focal(double focus = 2.0, std::optional<double> event_weight = std::nullopt) : gamma(focus), alpha(event_weight) {
    HTL_CHECK(gamma >= 0.0 && std::isfinite(gamma), "htl::Focal: expected a finite gamma ≥ 0, got ", gamma);
    HTL_CHECK(!alpha || (*alpha > 0.0 && *alpha < 1.0), "htl::Focal: expected alpha in (0, 1), got ", alpha.value_or(0.0));
  }
  /// γ
  double gamma;
  /// α; none: both cases count fully
  std::optional<double> alpha;

  /// @brief "focal"
  std::string name() const { return "focal"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief gamma; alpha, where it is given
  Options parameters() const { return alpha ? Options{{"gamma", gamma}, {"alpha", *alpha}} : Options{{"gamma", gamma}}; }
  /// @brief [0, 1]; a soft label stands on a regression task.
  std::pair<double, double> label_range() const { return {0.0, 1.0}; }
  /// @brief Binary and regression tasks (soft labels).
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from logits [B] or [B, 1] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    const at::Tensor z = detail::column("htl::Focal", logits, labels), y = labels.to(z.scalar_type());
    const at::Tensor over = detail::softplus(z), under = detail::softplus(z.neg());
    const at::Tensor event = under.mul(over.mul(-gamma).exp()), none = over.mul(under.mul(-gamma).exp());
    return event.mul(y.mul(alpha.value_or(1.0))).add(none.mul(y.neg().add(1).mul(alpha ? 1.0 - *alpha : 1.0)));
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief σ(z) [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::Focal", output).sigmoid(); }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    const detail::Logistic logistic = detail::logistic(*output);
    return row(&logistic, output, &target, slope);
  }
  /// @brief The same with the logit's logistic functions at hand.
  double row(const detail::Logistic* logistic, const double*, const double* target, double* slope) const {
    const detail::Logistic& at_z = *logistic;
    const double event = *target * alpha.value_or(1.0) * power(at_z.down, at_z.over);  // without branches on the label, which would mispredict
    const double none = (1.0 - *target) * (alpha ? 1.0 - *alpha : 1.0) * power(at_z.up, at_z.under);
    *slope = none * (gamma * at_z.down * at_z.over + at_z.up) - event * (gamma * at_z.up * at_z.under + at_z.down);
    return event * at_z.under + none * at_z.over;
  }

 private:
  /// p^γ of p and −log p; by products where γ is a small multiple of ½.
  double power(double p, double minus_log) const {
    const double halves = 2.0 * gamma;
    if (halves > 10.0 || std::floor(halves) != halves) return std::exp(-gamma * minus_log);
    const auto count = static_cast<int>(halves);
    double result = count % 2 == 0 ? 1.0 : std::sqrt(p);
    for (int k = 2; k <= count; k += 2) result *= p;
    return result;
  }
};

}  // namespace htl
