// SPDX-License-Identifier: Apache-2.0
/// @file binary_cross_entropy.hpp
/// @brief BinaryCrossEntropy: log loss of an event, from its logit.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <ATen/ops/binary_cross_entropy_with_logits.h>

#include <cmath>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief l = −y·log σ(z) − (1 − y)·log(1 − σ(z)) for a logit z and a label y in [0, 1].
///
/// Computed from the logit without σ, so that logits of any finite size give finite values: l = (1 − y)·max(z, 0) + y·max(−z, 0) + log(1 + e^−|z|).
/// dl/dz = σ(z) − y. Any device, no synchronisation.
///
/// With smoothing ε the label counts as (1 − ε)·y + ε/2 (Szegedy and others, Rethinking the Inception Architecture, 2016, §7, for two classes): logits stay
/// finite where events are separable, but probabilities are pulled towards ½ and are no longer calibrated.
///
///     at::Tensor per_row = htl::BinaryCrossEntropy{}(logits, labels);                    // [B]
///     at::Tensor smoothed = htl::BinaryCrossEntropy{.smoothing = 0.1}(logits, labels);   // [B]
struct BinaryCrossEntropy {
  /// ε in [0, 1)
  double smoothing = 0.0;

  /// @brief "binary_cross_entropy"
  std::string name() const { return "binary_cross_entropy"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief smoothing, where there is any
  Options parameters() const { return smoothing == 0.0 ? Options() : Options{{"smoothing", smoothing}}; }
  /// @brief [0, 1]; a soft label stands on a regression task, since a binary task's labels are events.
  std::pair<double, double> label_range() const { return {0.0, 1.0}; }
  /// @brief Binary and regression tasks (soft labels).
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from logits [B] or [B, 1] and labels [B].
  /// @throws c10::ValueError on other shapes, and unless smoothing is in [0, 1)
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    check();
    const at::Tensor z = detail::column("htl::BinaryCrossEntropy", logits, labels), y = labels.to(z.scalar_type());
    const at::Tensor smoothed = smoothing == 0.0 ? y : y.mul(1.0 - smoothing).add(0.5 * smoothing);
    return at::binary_cross_entropy_with_logits(z, smoothed, {}, {}, at::Reduction::None);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    check();
    return one_pass(*this, input, share);
  }
  /// @brief The event's probability [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column("htl::BinaryCrossEntropy", output).sigmoid(); }

  /// @brief One row in fp64; no difference of nearly equal numbers in value or slope.
  double row(const double* output, double label, double* slope) const {
    const detail::Logistic logistic = detail::logistic(*output);
    const double target = (1.0 - smoothing) * label + 0.5 * smoothing;
    *slope = (1.0 - target) * logistic.up - target * logistic.down;
    return (1.0 - target) * logistic.over + target * logistic.under;
  }
  /// @brief The same for many rows.
  void rows(const double* outputs, const double* labels, size_t count, double* values, double* slopes) const {
    double up[detail::kRowsPerBlock], down[detail::kRowsPerBlock];
    detail::logistic_all(outputs, count, up, down, values);
    for (size_t i = 0; i < count; ++i) {
      const double target = (1.0 - smoothing) * labels[i] + 0.5 * smoothing;
      slopes[i] = (1.0 - target) * up[i] - target * down[i];
      values[i] += (1.0 - target) * detail::positive_part(outputs[i]) + target * detail::positive_part(-outputs[i]);
    }
  }

 private:
  void check() const { HTL_CHECK(smoothing >= 0.0 && smoothing < 1.0, "htl::BinaryCrossEntropy: expected a smoothing in [0, 1), got ", smoothing); }
};

}  // namespace htl
