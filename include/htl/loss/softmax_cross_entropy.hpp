// SPDX-License-Identifier: Apache-2.0
/// @file softmax_cross_entropy.hpp
/// @brief SoftmaxCrossEntropy: log loss of one of K classes, from logits.
#pragma once

#include <htl/loss/one_pass.hpp>

#include <ATen/ops/cross_entropy_loss.h>

#include <cmath>
#include <limits>

namespace htl::inline v0_1_0 {

/// @brief l = log Σ_k e^{z_k} − z_y for K logits z and a class y in [0, K).
///
/// dl/dz_k = softmax(z)_k − [k = y]. Width K; the prediction is softmax(z) [B, K]. Convex, finite for all finite logits. Any device, no synchronisation; O(K) a
/// row.
///
/// With smoothing ε the class counts as (1 − ε)·[k = y] + ε/K: l = log Σ_k e^{z_k} − (1 − ε)·z_y − ε/K Σ_k z_k (Szegedy and others, Rethinking the Inception
/// Architecture, 2016, §7): logits stay finite, but probabilities are pulled towards 1/K and are no longer calibrated.
///
///     at::Tensor per_row = htl::SoftmaxCrossEntropy(3)(logits, classes);   // [B] from [B, 3] and int64 [B]
struct SoftmaxCrossEntropy {
  /// @brief Over K classes.
  /// @throws c10::ValueError for fewer than 2, and unless the smoothing is in [0, 1)
  explicit SoftmaxCrossEntropy(int64_t number_of_classes, double label_smoothing = 0.0) : classes(number_of_classes), smoothing(label_smoothing) {
    HTL_CHECK(classes >= 2, "htl::SoftmaxCrossEntropy: expected at least 2 classes, got ", classes);
    HTL_CHECK(smoothing >= 0.0 && smoothing < 1.0, "htl::SoftmaxCrossEntropy: expected a smoothing in [0, 1), got ", smoothing);
  }
  /// K
  int64_t classes;
  /// ε
  double smoothing;

  /// @brief "softmax_cross_entropy"
  std::string name() const { return "softmax_cross_entropy"; }
  /// @brief K
  int64_t output_width() const { return classes; }
  /// @brief classes; smoothing, where there is any
  Options parameters() const { return smoothing == 0.0 ? Options{{"classes", classes}} : Options{{"classes", classes}, {"smoothing", smoothing}}; }
  /// @brief Multiclass tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::multiclass; }

  /// @brief [B] from logits [B, K] and int64 classes [B]. A class outside [0, K): an error on the CPU; on other devices a NaN, since an error there
  /// would need a synchronisation or end the process.
  /// @throws c10::ValueError on other shapes, c10::TypeError on other types; c10::IndexError for a class outside [0, K) on the CPU
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& target) const {
    check_shape("htl::SoftmaxCrossEntropy", "logits", logits, {-1, classes});
    check_shape("htl::SoftmaxCrossEntropy", "classes", target, {logits.size(0)});
    HTL_CHECK_TYPE(target.scalar_type() == at::kLong, "htl::SoftmaxCrossEntropy: expected int64 classes, got ", target.scalar_type());
    const at::Tensor inside = target.clamp(0, classes - 1);
    const at::Tensor rows = at::cross_entropy_loss(logits, inside, {}, at::Reduction::None, /*ignore_index=*/-100, smoothing);
    const at::Tensor outside = inside.ne(target);
    HTL_CHECK_INDEX(!target.is_cpu() || !outside.any().item<bool>(), "htl::SoftmaxCrossEntropy: expected classes in [0, ", classes, "), got ",
                    target.masked_select(outside).min().item<int64_t>());
    return rows.masked_fill(outside, std::numeric_limits<double>::quiet_NaN());
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief The classes' probabilities [B, K].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check_shape("htl::SoftmaxCrossEntropy", "logits", output, {-1, classes});
    return output.softmax(1);
  }

  /// @brief One row in fp64; a class outside [0, K) gives NaN.
  double row(const double* output, double target, double* slope) const {
    if (!(target >= 0.0 && target < static_cast<double>(classes))) {
      std::fill(slope, slope + classes, std::numeric_limits<double>::quiet_NaN());
      return std::numeric_limits<double>::quiet_NaN();
    }
    const int64_t wanted = static_cast<int64_t>(target), top = std::max_element(output, output + classes) - output;
    double rest = 0.0;    // Σ e^{z_k − z_top} without the top itself, whose term is 1
    double others = 0.0;  // the same sum without the wanted class
    for (int64_t k = 0; k < classes; ++k) {
      slope[k] = std::exp(output[k] - output[top]);
      if (k != top) rest += slope[k];
      if (k != wanted) others += slope[k];
    }
    for (int64_t k = 0; k < classes; ++k) slope[k] /= 1.0 + rest;
    slope[wanted] = -others / (1.0 + rest);
    const double log_rest = std::log1p(rest), value = (output[top] - output[wanted]) + log_rest;
    if (smoothing == 0.0) return value;
    const double part = 1.0 / static_cast<double>(classes);
    double below = 0.0;  // Σ of what the logits lie below the top
    for (int64_t k = 0; k < classes; ++k) {
      below += output[top] - output[k];
      slope[k] -= smoothing * part;
    }
    slope[wanted] += smoothing;
    return (1.0 - smoothing) * value + smoothing * (part * below + log_rest);
  }
};

}  // namespace htl
