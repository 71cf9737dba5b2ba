// SPDX-License-Identifier: Apache-2.0
/// @file coral.hpp
/// @brief Coral: ordered classes by the events "above class k".
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cummin.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What Coral predicts, and so for which kind of task it is.
enum class CoralPredict {
  probabilities,  ///< of the K classes, [B, K]: a multiclass task
  rank            ///< the expected class, [B]: a regression task whose labels are 0 … K − 1
};

/// @brief l = Σ_k BCE(z_k, [y > k]) over k = 0 … K − 2, for K − 1 logits z_k of the events "y > k" and an ordered class y in [0, K).
///
/// dl/dz_k = σ(z_k) − [y > k]. The logits are the outputs themselves: give the tower's last layer one weight vector and K − 1 biases, z_k = f + b_k, to have
/// the paper's model, or let each be free. `ordered` makes them decreasing instead, whatever the outputs: z_0 = o_0, z_k = z_{k−1} − softplus(o_k), so that no
/// class has a negative probability; f + b_k with b learnt is the case of gaps that do not depend on the row. Without it P(y > k) is replaced by the least of
/// P(y > 0) … P(y > k) in predictions: the classes' probabilities, and the expected class. Any device, no synchronisation; O(K) a row.
///
/// Width K − 1. Convex, but for `ordered`; finite for all finite outputs. A class outside [0, K) gives NaN, and so does NaN.
///
/// Source: Cao, Mirjalili and Raschka, Rank Consistent Ordinal Regression, 2020, (4) without task weights; the sum over k, not the mean.
///
///     const htl::Coral loss(4);
///     at::Tensor per_row = loss(logits, classes);   // [B] from [B, 3] and [B]
///     at::Tensor ranks = loss.rank(logits);          // [B]
struct Coral {
  /// @brief Over K classes.
  /// @throws c10::ValueError for fewer than 2
  explicit Coral(int64_t number_of_classes, bool decreasing = false, CoralPredict predicted = CoralPredict::probabilities)
      : classes(number_of_classes), ordered(decreasing), predicts(predicted) {
    HTL_CHECK(classes >= 2, "htl::Coral: expected at least 2 classes, got ", classes);
  }
  /// K
  int64_t classes;
  /// Whether logits are made decreasing
  bool ordered;
  /// What it predicts
  CoralPredict predicts;

  /// @brief It reads the class itself.
  static constexpr bool in_label_unit = true;
  /// @brief "coral"
  std::string name() const { return "coral"; }
  /// @brief K − 1
  int64_t output_width() const { return classes - 1; }
  /// @brief classes, ordered, predicts
  Options parameters() const { return {{"classes", classes}, {"ordered", ordered}, {"predicts", predicts == CoralPredict::rank ? "rank" : "probabilities"}}; }
  /// @brief Multiclass tasks; regression tasks where it predicts the rank.
  bool fits(TaskKind kind) const { return kind == (predicts == CoralPredict::rank ? TaskKind::regression : TaskKind::multiclass); }
  /// @brief [0, K − 1]
  std::pair<double, double> label_range() const { return {0.0, static_cast<double>(classes - 1)}; }

  /// @brief [B] from outputs [B, K − 1] and classes [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const {
    const at::Tensor z = logits(outputs);
    check_shape("htl::Coral", "classes", labels, {outputs.size(0)});
    const at::Tensor above = labels.unsqueeze(1).gt(at::arange(classes - 1, labels.options()));
    const at::Tensor rows = detail::softplus(at::where(above, z.neg(), z)).sum(1);
    return rows.masked_fill(labels.ge(0).logical_and(labels.le(classes - 1)).logical_not(), std::numeric_limits<double>::quiet_NaN());
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief probabilities() or rank().
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return predicts == CoralPredict::rank ? rank(output) : probabilities(output); }
  /// @brief [B, K − 1] the logits of "y > k".
  at::Tensor logits(const at::Tensor& outputs) const {
    check_shape("htl::Coral", "outputs", outputs, {-1, classes - 1});
    if (!ordered) return outputs;
    return at::cat({outputs.narrow(1, 0, 1), detail::softplus(outputs.narrow(1, 1, classes - 2)).neg()}, 1).cumsum(1);
  }
  /// @brief [B] the expected class Σ_k P(y > k).
  at::Tensor rank(const at::Tensor& outputs) const { return above_each(outputs).sum(1); }
  /// @brief [B, K] the classes' probabilities; each row's sum is 1.
  at::Tensor probabilities(const at::Tensor& outputs) const {
    const at::Tensor above = above_each(outputs);
    const auto column = [&](bool one) { return one ? at::ones({outputs.size(0), 1}, above.options()) : at::zeros({outputs.size(0), 1}, above.options()); };
    return at::cat({column(true), above}, 1).sub(at::cat({above, column(false)}, 1));
  }

  /// @brief One row in fp64; a class outside [0, K) gives NaN.
  double row(const double* output, const double* label, double* slope) const {
    std::vector<detail::Logistic> logistic;
    for (int64_t k = 0; k + 1 < classes; ++k) logistic.push_back(detail::logistic(output[k]));
    return row(logistic.data(), output, label, slope);
  }
  /// @brief The same with the outputs' logistic functions at hand.
  double row(const detail::Logistic* logistic, const double* output, const double* label, double* slope) const {
    const int64_t width = classes - 1;
    const double y = *label;
    if (!(y >= 0.0 && y <= static_cast<double>(width))) {
      std::fill(slope, slope + width, std::numeric_limits<double>::quiet_NaN());
      return std::numeric_limits<double>::quiet_NaN();
    }
    double value = 0.0, z = 0.0;
    for (int64_t k = 0; k < width; ++k) {
      z = ordered && k > 0 ? z - logistic[k].over : output[k];
      const bool above = y > static_cast<double>(k);
      const detail::Logistic at_z = ordered && k > 0 ? detail::logistic(z) : logistic[k];
      value += above ? at_z.under : at_z.over;
      slope[k] = above ? -at_z.down : at_z.up;
    }
    if (ordered) {  // gap k lowers the logits from k on
      double rest = 0.0;
      for (int64_t k = width - 1; k > 0; --k) {
        rest += slope[k];
        slope[k] = -rest * logistic[k].up;
      }
      slope[0] += rest;
    }
    return value;
  }

 private:
  /// [B, K − 1] P(y > k), falling.
  at::Tensor above_each(const at::Tensor& outputs) const {
    const at::Tensor above = logits(outputs).sigmoid();
    return ordered ? above : std::get<0>(above.cummin(1));
  }
};

}  // namespace htl
