// SPDX-License-Identifier: Apache-2.0
/// @file smeared_transform.hpp
/// @brief SmearedTransform: the mean of the label, where the inverse of a mean is not the mean.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/nested_options.hpp>
#include <htl/task/quantile_transform.hpp>
#include <htl/task/task_set.hpp>

#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief A transform whose inverse gives the mean: y = mean_k inner⁻¹(z + r_k), with quantiles r_k of the residuals of a trained model.
///
/// A model of squared error learns the mean of z; where the transform bends, the inverse of that is not the mean of y (of log1p: a median, too low by a factor
/// e^{σ²/2}). Residuals come from smeared(); before, r = {0}: the plain inverse. Fitting anew drops them. O(B · residuals).
/// **Reference.** Duan, "Smearing Estimate: A Nonparametric Retransformation Method", JASA 1983; here by quantiles, since all residuals would be too many.
struct SmearedTransform {
  AnyLabelTransform inner = {};           ///< of the label
  std::vector<double> residuals = {0.0};  ///< target − output, in the target's unit

  /// @brief "smeared"
  std::string name() const { return "smeared"; }
  /// @brief The inner one fitted, without residuals.
  SmearedTransform fitted(const at::Tensor& values, const Named<at::Tensor>& columns) const { return {inner.fitted({values}, columns)}; }
  /// @brief Whether the inner one is.
  bool is_fitted() const { return inner.is_fitted() && !residuals.empty(); }
  /// @brief inner(y)
  at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns) const { return inner.apply(values, columns); }
  /// @brief mean_k inner⁻¹(z + r_k)
  at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns) const {
    at::Tensor sum;
    for (const double residual : residuals) {
      const at::Tensor one = inner.inverse(values.add(residual), columns);
      sum = sum.defined() ? sum.add(one) : one;
    }
    return sum.div(static_cast<double>(residuals.size()));
  }
  /// @brief inner
  Options parameters() const { return {{"inner", detail::spec_of(inner)}}; }
  /// @brief residuals, and the inner one's under "inner."
  Options statistics() const {
    Options result = {{"residuals", residuals}};
    detail::add_below(result, "inner.", inner.statistics());
    return result;
  }
  /// @brief A copy with given statistics.
  SmearedTransform with_statistics(const Options& numbers) const {
    SmearedTransform copy{inner.with_statistics(detail::options_below(numbers, "inner.")), numbers["residuals"].numbers()};
    HTL_CHECK(!copy.residuals.empty(), "htl::smeared: expected at least one residual, got none");
    return copy;
  }
  /// @brief The inner one's.
  std::vector<std::string> context() const { return inner.context(); }
};

/// @brief A fitted transform whose inverse gives the mean, by what a trained model leaves unexplained. Measure it on rows that the model was not trained on.
///
/// smeared() of a TaskSet takes the rows that carry a task's label, and the context, by itself.
/// @param transform fitted; a SmearedTransform gets new residuals
/// @param output [n] the model's outputs: predictions of the target, before the inverse
/// @param label [n] what was observed
/// @param columns context columns of the same rows
/// @param quantiles of the residuals that are kept, ≥ 1
/// @throws c10::ValueError on wrong shapes, without an observed row, or where a residual is not finite
inline AnyLabelTransform smeared(const AnyLabelTransform& transform, const at::Tensor& output, const Label& label, const Named<at::Tensor>& columns = {},
                                 int64_t quantiles = 64) {
  const auto* const before = transform.get_if<SmearedTransform>();
  const AnyLabelTransform inner = before ? before->inner : transform;
  check_shape("htl::smeared", "outputs", output, {label.value.size(0)});
  HTL_CHECK(quantiles >= 1, "htl::smeared: expected at least one quantile, got ", quantiles);
  at::Tensor residuals = inner.apply(label.value.detach().to(at::kDouble), columns).sub(output.detach().to(at::kDouble));
  if (const at::Tensor rows = label.observed_rows(); rows.defined()) residuals = residuals.index_select(0, rows);
  HTL_CHECK(residuals.numel() > 0, "htl::smeared: expected at least one observed label, got none");
  HTL_CHECK(residuals.isfinite().all().item<bool>(), "htl::smeared: expected finite outputs and labels, got NaN or infinity; mask those rows");
  std::vector<double> fine = detail::quantiles_of(residuals.to(at::kCPU), 2 * quantiles + 1), kept;
  for (size_t k = 1; k < fine.size(); k += 2) kept.push_back(fine[k]);  // the middles of equal parts
  return SmearedTransform{inner, std::move(kept)};
}

/// @brief The tasks, one of them with such a transform, by the rows that carry its label: mask, observed_when and weight.
///
///     tasks = htl::smeared(tasks, "watch_time", net(validation), validation.labels);
///
/// @param tasks fitted
/// @param name a regression
/// @param outputs [B, W_t] of the task, and of those that its loss reads
/// @param labels of the same rows, with the context columns that losses and transforms read
/// @param quantiles of the residuals that are kept, ≥ 1
/// @throws c10::ValueError as above, and for a task whose loss works in the label's unit; c10::IndexError if the task, its output or a label is missing
inline TaskSet smeared(const TaskSet& tasks, std::string_view name, const TaskOutputs& outputs, const Labels& labels, int64_t quantiles = 64) {
  const int64_t position = tasks.index(name);
  const TaskSpec& task = tasks[position];
  Label label = labels[name];
  label.mask = tasks.observed(position, labels);
  const at::Tensor target = tasks.with(task.transform(no_transform()).calibration({})).predict(position, outputs[name], labels.context, &outputs);
  return tasks.with(task.transform(smeared(task.transform(), target, label, labels.context, quantiles)));
}

}  // namespace htl
