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
///     at::Tensor per_row = htl::BinaryCrossEntropy{}(logits, labels);   // [B]
struct BinaryCrossEntropy {
  /// @brief "binary_cross_entropy"
  std::string name() const { return "binary_cross_entropy"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief [0, 1]; a soft label stands on a regression task, since a binary task's labels are events.
  std::pair<double, double> label_range() const { return {0.0, 1.0}; }
  /// @brief Binary and regression tasks (soft labels).
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from logits [B] or [B, 1] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    const at::Tensor z = detail::column("htl::BinaryCrossEntropy", logits, labels);
    return at::binary_cross_entropy_with_logits(z, labels.to(z.scalar_type()), {}, {}, at::Reduction::None);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The event's probability [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.squeeze(1).sigmoid(); }

  /// @brief One row in fp64; no difference of nearly equal numbers in value or slope.
  double row(const double* output, double target, double* slope) const {
    const double z = *output, tail = std::exp(-std::abs(z)), whole = 1.0 + tail;
    const double rest = 1.0 / whole, of_tail = tail * rest;                    // σ(|z|), σ(−|z|)
    const double log_whole = std::log(whole) + (tail - (whole - 1.0)) * rest;  // log(1 + tail) with what rounding took from 1 + tail
    *slope = (1.0 - target) * (z < 0.0 ? of_tail : rest) - target * (z < 0.0 ? rest : of_tail);
    return (1.0 - target) * std::max(z, 0.0) + target * std::max(-z, 0.0) + log_whole;
  }
};

}  // namespace htl
