// SPDX-License-Identifier: Apache-2.0
/// @file doubly_robust.hpp
/// @brief DoublyRobust: inverse propensity with an imputed error where the label was not seen (ESCM²-DR).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>
#include <htl/loss/propensity.hpp>

#include <ATen/ops/binary_cross_entropy_with_logits.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How the second output becomes the imputed error ê.
enum class ImputedError {
  softplus,  ///< softplus(r): any positive number, as a log loss can be
  sigmoid    ///< σ(r): at most 1, as in PaddleRec, although a log loss goes beyond
};

/// @brief Choices of DoublyRobust.
struct DoublyRobustOptions {
  /// Which event shows the label, and how likely it was.
  Propensity propensity;
  /// How ê is read.
  ImputedError imputed = ImputedError::softplus;
  /// The factor of the imputation's squared error.
  double imputation_weight = 1.0;
  /// Whether both terms move both outputs, as in ESCM²; false: the first term moves z and the second r, as in doubly robust joint learning.
  bool joint = true;
};

/// @brief l = ê + w·(e − ê) + c·w·(e − ê)², with e = BCE(z, y), w = o·min(1/p, clip), ê from the second output r, c the imputation's weight.
///
/// Its first part has the mean of e over all rows as expectation if either ê or p is right. Width 2: the logit z and r. Labels in [0, 1]; the rows that
/// count are all rows, as for InversePropensity. p is detached. Gradient, joint: dl/dz = w·(1 + 2c(e − ê))·(σ(z) − y), dl/dr = (1 − w − 2c·w·(e − ê))·ê'(r);
/// not joint: dl/dz = w·(σ(z) − y), which is InversePropensity's, and dl/dr = −2c·w·(e − ê)·ê'(r). Any device, no synchronisation; O(B). Finite in
/// float32 for logits up to 1e18.
///
/// Joint, the first term alone pulls r down in unseen rows and up in seen ones, which cancels in the mean only; rows weighted by `clip` do not cancel.
/// Source: Wang et al., ESCM², SIGIR 2022; not joint: Wang et al., Doubly Robust Joint Learning, ICML 2019. ê by softplus is our choice.
struct DoublyRobust {
  /// @brief With its options.
  /// @throws c10::ValueError without event and propensity, or for a floor, clip or imputation's weight out of range
  explicit DoublyRobust(DoublyRobustOptions choices) : options(std::move(choices)) {
    options.propensity.check(kWho);
    HTL_CHECK(options.imputation_weight >= 0.0 && std::isfinite(options.imputation_weight), kWho, ": expected a finite imputation_weight ≥ 0, got ",
              options.imputation_weight);
  }
  /// What it was made with.
  DoublyRobustOptions options;

  /// @brief "doubly_robust"
  std::string name() const { return "doubly_robust"; }
  /// @brief 2
  int64_t output_width() const { return 2; }
  /// @brief [0, 1]
  std::pair<double, double> label_range() const { return {0.0, 1.0}; }
  /// @brief given, propensity, floor, clip, imputed, imputation_weight, joint
  Options parameters() const {
    Options result = options.propensity.parameters();
    result.set("imputed", options.imputed == ImputedError::softplus ? "softplus" : "sigmoid");
    result.set("imputation_weight", options.imputation_weight).set("joint", options.joint);
    return result;
  }
  /// @brief The propensity's column, if one is named.
  std::vector<std::string> context() const { return options.propensity.context(); }
  /// @brief The task of the event, if one is named.
  std::vector<std::string> reads() const { return options.propensity.reads(); }
  /// @brief Where a given task says which labels were seen: the others count as well.
  bool over_all_rows() const { return !options.propensity.given.empty(); }
  /// @brief They are events: binary tasks.
  bool can_read(TaskKind kind) const { return kind == TaskKind::binary; }
  /// @brief Binary and regression tasks (soft labels).
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from outputs [B, 2], labels [B] and weights w [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels, const at::Tensor& weights) const {
    check_shape(kWho, "outputs", outputs, {-1, 2});
    check_shape(kWho, "labels", labels, {outputs.size(0)});
    check_shape(kWho, "weights", weights, {outputs.size(0)});
    const at::Tensor r = outputs.select(1, 1), y = labels.to(outputs.scalar_type());
    const at::Tensor error = at::binary_cross_entropy_with_logits(outputs.select(1, 0), y, {}, {}, at::Reduction::None);
    const at::Tensor imputed = options.imputed == ImputedError::softplus ? detail::softplus(r) : r.sigmoid();
    const at::Tensor held = options.joint ? imputed : imputed.detach(), target = options.joint ? error : error.detach();
    const at::Tensor squared = weights.mul(target.sub(imputed).square());
    return held.add(weights.mul(error.sub(held))).add(squared, options.imputation_weight);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target, options.propensity.weight(kWho, input)); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    return one_pass(*this, input, at::stack({input.target, options.propensity.weight(kWho, input)}).t(), share);
  }
  /// @brief The event's probability σ(z) [B], where its label is seen or not.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.select(1, 0).sigmoid(); }

  /// @brief One row in fp64 from its label and w.
  double row(const double* output, const double* columns, double* slope) const {
    const std::array<detail::Logistic, 2> logistic = {detail::logistic(output[0]), detail::logistic(output[1])};
    return row(logistic.data(), output, columns, slope);
  }
  /// @brief The same with the outputs' logistic functions at hand.
  double row(const detail::Logistic* logistic, const double*, const double* columns, double* slope) const {
    const double yes = columns[0], no = 1.0 - yes, weight = columns[1];
    const detail::Logistic &z = logistic[0], &r = logistic[1];
    const bool positive = options.imputed == ImputedError::softplus;
    const double error = yes * z.under + no * z.over, imputed = positive ? r.over : r.up, of_imputed = positive ? r.up : r.up * r.down;
    const double difference = error - imputed, pull = 2.0 * options.imputation_weight * weight * difference;
    slope[0] = (no * z.up - yes * z.down) * (options.joint ? weight + pull : weight);
    slope[1] = of_imputed * (options.joint ? 1.0 - weight - pull : -pull);
    return imputed + weight * difference + options.imputation_weight * weight * difference * difference;
  }

 private:
  static constexpr const char* kWho = "htl::DoublyRobust";
};

}  // namespace htl
