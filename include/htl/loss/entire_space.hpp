// SPDX-License-Identifier: Apache-2.0
/// @file entire_space.hpp
/// @brief EntireSpace: an event that needs earlier ones, learned over all rows from the product of probabilities (ESMM).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/other_tasks.hpp>
#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/log1p.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/where.h>

#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What a task with EntireSpace predicts.
enum class EntireSpacePredict {
  product,     ///< the event's probability over all rows
  conditional  ///< its probability where the given events happened
};

/// @brief Choices of EntireSpace.
struct EntireSpaceOptions {
  /// The tasks whose events must happen first; column 0 of each output is the logit of its event, given the events named before it.
  std::vector<std::string> given;
  /// What the task predicts.
  EntireSpacePredict predicts = EntireSpacePredict::product;
  /// The width W of the task's output, of which column 0 is the conditional logit: 2 beside DoublyRobust.
  int64_t width = 1;
};

/// @brief l = −y·log p − (1 − y)·log(1 − p), where p = σ(z)·Π_u σ(z_u): the conditional probability of this task's event times those of the given tasks.
///
/// The label is the event over all rows (clicked and bought), in [0, 1], so the loss has no selection bias; no `observed_when` on this task.
/// Gradient flows into this task's column 0 and into the given tasks' outputs: dl/dz_k = (p − y)/(1 − p)·σ(−z_k). Computed in log space, log p =
/// Σ log σ and log(1 − p) as a sum of positive terms, so that no difference of nearly equal numbers is taken in either tail; finite for all finite
/// outputs. Any device, no synchronisation. O(B·(1 + n)).
///
/// Source: Ma et al., Entire Space Multi-Task Model, SIGIR 2018, eq. 3; the click's own loss is the click task's.
///
///     htl::binary("buy").after("click").loss(htl::EntireSpace({.given = {"click"}}))
struct EntireSpace {
  /// @brief With its options.
  /// @throws c10::ValueError without given tasks, or for a width < 1
  explicit EntireSpace(EntireSpaceOptions choices) : options(std::move(choices)) {
    detail::check_names("htl::EntireSpace", "given", options.given);
    HTL_CHECK(options.width >= 1, "htl::EntireSpace: expected a width of at least 1, got ", options.width);
  }
  /// What it was made with.
  EntireSpaceOptions options;

  /// @brief "entire_space"
  std::string name() const { return "entire_space"; }
  /// @brief width
  int64_t output_width() const { return options.width; }
  /// @brief [0, 1]
  std::pair<double, double> label_range() const { return {0.0, 1.0}; }
  /// @brief given, predicts, width
  Options parameters() const {
    return {{"given", detail::join_names(options.given)},
            {"predicts", options.predicts == EntireSpacePredict::product ? "product" : "conditional"},
            {"width", options.width}};
  }
  /// @brief The given tasks.
  std::vector<std::string> reads() const { return options.given; }
  /// @brief It is: the label is the event over all rows.
  bool over_all_rows() const { return true; }
  /// @brief They are events: binary tasks.
  bool can_read(TaskKind kind) const { return kind == TaskKind::binary; }
  /// @brief Binary and regression tasks (soft labels).
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from logits [B, 1 + n], of this task and of the given ones, and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    check_shape("htl::EntireSpace", "logits", logits, {-1, 1 + static_cast<int64_t>(options.given.size())});
    check_shape("htl::EntireSpace", "labels", labels, {logits.size(0)});
    const at::Tensor log_each = at::log_sigmoid(logits), log_p = log_each.sum(1), y = labels.to(logits.scalar_type());
    const at::Tensor small = at::log1p(log_p.clamp_max(-std::numbers::ln2).exp().neg());  // where p ≤ ½
    // where p > ½: 1 − p = Σ_k (1 − σ_k)·Π_{j<k} σ_j
    const at::Tensor least = logits.detach().amin(1, /*keepdim=*/true);  // taken out, so that large logits don't swamp the terms
    const at::Tensor terms = at::log_sigmoid(logits.neg()).add(least).add(log_each.cumsum(1).sub(log_each));
    const at::Tensor large = at::logsumexp(terms, {1}).sub(least.squeeze(1));
    const at::Tensor log_rest = at::where(log_p.lt(-std::numbers::ln2), small, large);
    return y.mul(log_p).add(y.neg().add(1).mul(log_rest)).neg();
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(joined(input.output, input.outputs), input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    if (!input.output.is_cpu()) return weighted_sum(per_row(input), share);
    return one_pass(*this, detail::with_output(input, joined(input.output, input.outputs)), share);
  }
  /// @brief The product, or the conditional probability, [B].
  at::Tensor predict(const PredictInput& input) const {
    if (options.predicts == EntireSpacePredict::conditional) return input.output.select(1, 0).sigmoid();
    return at::log_sigmoid(joined(input.output, input.outputs)).sum(1).exp();
  }

  /// @brief 1 + n, of which row() reads logits.
  int64_t row_width() const { return 1 + static_cast<int64_t>(options.given.size()); }
  /// @brief One row in fp64 from 1 + n logits.
  double row(const double* output, double target, double* slope) const {
    std::vector<detail::Logistic> logistic;
    for (size_t k = 0; k <= options.given.size(); ++k) logistic.push_back(detail::logistic(output[k]));
    return row(logistic.data(), output, &target, slope);
  }
  /// @brief The same with the logits' logistic functions at hand.
  double row(const detail::Logistic* logistic, const double* output, const double* columns, double* slope) const {
    const size_t count = 1 + options.given.size();
    const double target = *columns;
    double minus_log_p = 0.0;
    for (size_t k = 0; k < count; ++k) {
      slope[k] = logistic[k].down;
      minus_log_p += logistic[k].under;
    }
    if (!(minus_log_p < std::numbers::ln2)) {
      const double p = std::exp(-minus_log_p), rest = 1.0 - p;
      for (size_t k = 0; k < count; ++k) slope[k] *= (p - target) / rest;
      return target * minus_log_p - (1.0 - target) * std::log1p(-p);
    }
    // p > ½, so every logit is > 0, and 1 − p = e^{−least}·Σ_k e^{least − z_k}·σ_k·Π_{j<k} σ_j: at large logits σ(−z_k) and 1 − p are 0 in fp64, their ratio
    // not
    const double p = std::exp(-minus_log_p);
    const double least = *std::min_element(output, output + count);
    double before = 1.0, sum = 0.0;
    for (size_t k = 0; k < count; ++k) {
      const double part = std::exp(least - output[k]) * logistic[k].up;
      sum += part * before;
      before *= logistic[k].up;
      slope[k] = part;
    }
    const double scale = std::exp(-least);
    for (size_t k = 0; k < count; ++k) slope[k] = (1.0 - target) * p * slope[k] / sum - target * scale * slope[k];
    return target * minus_log_p + (1.0 - target) * (least - std::log(sum));
  }

 private:
  at::Tensor joined(const at::Tensor& own, const TaskOutputs* outputs) const { return detail::joined_outputs("htl::EntireSpace", own, outputs, options.given); }
};

}  // namespace htl
