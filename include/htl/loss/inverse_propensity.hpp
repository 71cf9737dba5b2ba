// SPDX-License-Identifier: Apache-2.0
/// @file inverse_propensity.hpp
/// @brief InversePropensity: a conversion seen only after a click, each row weighted by how rare its click was (ESCM²-IPS).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/one_pass.hpp>
#include <htl/loss/propensity.hpp>

#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices of InversePropensity.
struct InversePropensityOptions {
  /// Which event shows the label, and how likely it was.
  Propensity propensity;
  /// Whether the weights are divided by the batch's share of events: o·B·min(1/(p·Σo), clip), as PaddleRec computes it.
  bool batch_normalised = false;
  /// The width W of the task's output, of which column 0 is the logit.
  int64_t width = 1;
};

/// @brief l = w·BCE(z, y) with w = o·min(1/p, clip): o says whether the label was seen, p how likely that was, at least `floor`.
///
/// Σ l / B is then an unbiased estimate of the loss over all rows (but for floor and clip) if the rows that count are all rows: the task has no
/// `observed_when`, and its label is 0 where o is 0. Gradient: w·(σ(z) − y) into this task's column 0; p is detached, the click task learns from its
/// own loss. In the batch-normalised form B and Σo are sums of the rows' weights; its clip bounds 1/(p·Σo). Convex, finite for all finite logits: w is at most
/// the clip (times B in the batch-normalised form). Any device, no synchronisation; O(B).
///
/// Source: Wang et al., ESCM²: Entire Space Counterfactual Multi-Task Model, SIGIR 2022; batch-normalised: PaddleRec's ESCM².
struct InversePropensity {
  /// @brief With its options.
  /// @throws c10::ValueError without event and propensity, or for a floor, clip or width out of range
  explicit InversePropensity(InversePropensityOptions choices) : options(std::move(choices)) {
    options.propensity.check(kWho);
    HTL_CHECK(options.width >= 1, kWho, ": expected a width of at least 1, got ", options.width);
  }
  /// What it was made with.
  InversePropensityOptions options;

  /// @brief "inverse_propensity"
  std::string name() const { return "inverse_propensity"; }
  /// @brief width
  int64_t output_width() const { return options.width; }
  /// @brief [0, 1]
  std::pair<double, double> label_range() const { return {0.0, 1.0}; }
  /// @brief given, propensity, floor, clip, batch_normalised, width
  Options parameters() const {
    Options result = options.propensity.parameters();
    result.set("batch_normalised", options.batch_normalised).set("width", options.width);
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

  /// @brief [B] from logits [B] or [B, 1], labels [B] and weights w [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights) const {
    const at::Tensor z = detail::column(kWho, logits, labels);
    check_shape(kWho, "weights", weights, {z.size(0)});
    return at::binary_cross_entropy_with_logits(z, labels.to(z.scalar_type()), {}, {}, at::Reduction::None).mul(weights);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output.select(1, 0), input.target, weights(input)); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    return one_pass(*this, input, at::stack({input.target, weights(input)}).t(), share);
  }
  /// @brief The event's probability σ(z) [B], where its label is seen or not.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.select(1, 0).sigmoid(); }
  /// @brief [B] w, detached.
  at::Tensor weights(const LossInput& input) const {
    if (!options.batch_normalised) return options.propensity.weight(kWho, input);
    const at::Tensor o = options.propensity.event(kWho, input), p = options.propensity.probability(kWho, input);
    const at::Tensor counts = input.weight.defined() ? input.weight : at::ones_like(o);
    const at::Tensor scaled = p.mul(counts.mul(o).sum()).clamp_min(options.propensity.floor).reciprocal().clamp_max(options.propensity.clip);
    return at::where(o.gt(0), scaled.mul(counts.sum()), 0.0);
  }

  /// @brief One row in fp64 from its label and w.
  double row(const double* output, const double* columns, double* slope) const {
    const detail::Logistic logistic = detail::logistic(*output);
    return row(&logistic, output, columns, slope);
  }
  /// @brief The same with the outputs' logistic functions at hand.
  double row(const detail::Logistic* logistic, const double*, const double* columns, double* slope) const {
    const double yes = columns[0] * columns[1], no = columns[1] - yes;
    std::fill(slope + 1, slope + options.width, 0.0);
    *slope = no * logistic->up - yes * logistic->down;
    return yes * logistic->under + no * logistic->over;
  }

 private:
  static constexpr const char* kWho = "htl::InversePropensity";
};

}  // namespace htl
