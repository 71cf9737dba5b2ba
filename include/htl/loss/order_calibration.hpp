// SPDX-License-Identifier: Apache-2.0
/// @file order_calibration.hpp
/// @brief OrderCalibration: an event should not look likelier than those that it needs (AITM).
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/other_tasks.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/where.h>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices of OrderCalibration.
struct OrderCalibrationOptions {
  /// The tasks whose events must happen first.
  std::vector<std::string> after;
  /// The width W of the task's output, of which column 0 is the logit.
  int64_t width = 1;
};

/// @brief l = Σ_u max(σ(z) − σ(z_u), 0) over the tasks u that this one's event needs: a term beside another loss of the task.
///
/// No label is read; only rows in which this task's label counts enter, so that with `observed_when` it stands on the rows of that event. Gradient flows
/// into both logits: σ'(z) and −σ'(z_u) where the order is broken, else 0. Column 0 of each output is a logit over the same rows: not EntireSpace's,
/// whose product keeps the order by itself. In [0, n], finite for all finite logits; not convex. Any device, no synchronisation. O(B·(1 + n)).
///
/// Source: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions, KDD 2021; its weight there is 0.6.
///
///     htl::binary("buy").after("click").loss(htl::BinaryCrossEntropy{}).loss(htl::OrderCalibration({.after = {"click"}}), 0.6)
struct OrderCalibration {
  /// @brief With its options.
  /// @throws c10::ValueError without tasks, or for a width < 1
  explicit OrderCalibration(OrderCalibrationOptions choices) : options(std::move(choices)) {
    detail::check_names("htl::OrderCalibration", "after", options.after);
    HTL_CHECK(options.width >= 1, "htl::OrderCalibration: expected a width of at least 1, got ", options.width);
  }
  /// What it was made with.
  OrderCalibrationOptions options;

  /// @brief "order_calibration"
  std::string name() const { return "order_calibration"; }
  /// @brief width
  int64_t output_width() const { return options.width; }
  /// @brief after, width
  Options parameters() const { return {{"after", detail::join_names(options.after)}, {"width", options.width}}; }
  /// @brief The tasks that this one's event needs.
  std::vector<std::string> reads() const { return options.after; }
  /// @brief They are events: binary tasks.
  bool can_read(TaskKind kind) const { return kind == TaskKind::binary; }
  /// @brief Binary and regression tasks (soft labels).
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from logits [B, 1 + n], of this task and of those that it needs.
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& logits) const {
    check_shape("htl::OrderCalibration", "logits", logits, {-1, 1 + static_cast<int64_t>(options.after.size())});
    const at::Tensor own = logits.narrow(1, 0, 1), others = logits.narrow(1, 1, logits.size(1) - 1);
    const at::Tensor high = own.gt(0).logical_and(others.gt(0));  // there the difference of 1 − σ loses nothing
    const at::Tensor excess = at::where(high, others.neg().sigmoid().sub(own.neg().sigmoid()), own.sigmoid().sub(others.sigmoid()));
    return excess.masked_fill(own.le(others), 0).sum(1);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(joined(input)); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    if (!input.output.is_cpu()) return weighted_sum(per_row(input), share);
    return one_pass(*this, detail::with_output(input, joined(input)), share);
  }
  /// @brief The event's probability σ(z) [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.select(1, 0).sigmoid(); }

  /// @brief 1 + n, of which row() reads logits.
  int64_t row_width() const { return 1 + static_cast<int64_t>(options.after.size()); }
  /// @brief One row in fp64 from 1 + n logits.
  double row(const double* output, double target, double* slope) const {
    std::vector<detail::Logistic> logistic;
    for (size_t k = 0; k <= options.after.size(); ++k) logistic.push_back(detail::logistic(output[k]));
    return row(logistic.data(), output, &target, slope);
  }
  /// @brief The same with the logits' logistic functions at hand.
  double row(const detail::Logistic* logistic, const double* output, const double*, double* slope) const {
    const detail::Logistic& own = logistic[0];
    double sum = 0.0;
    slope[0] = 0.0;
    for (size_t k = 1; k <= options.after.size(); ++k) {
      const detail::Logistic& other = logistic[k];
      slope[k] = 0.0;
      if (output[0] <= output[k]) continue;  // NaN goes on
      sum += output[0] > 0.0 && output[k] > 0.0 ? other.down - own.down : own.up - other.up;
      slope[0] += own.up * own.down;
      slope[k] = -other.up * other.down;
    }
    return sum;
  }

 private:
  at::Tensor joined(const LossInput& input) const { return detail::joined_outputs("htl::OrderCalibration", input.output, input.outputs, options.after); }
};

}  // namespace htl
