// SPDX-License-Identifier: Apache-2.0
/// @file weighted_logistic.hpp
/// @brief WeightedLogistic: watch time as the odds of a weighted logistic regression.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/other_tasks.hpp>
#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/where.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Which rows are negatives of the regression.
enum class WeightedLogisticForm {
  odds,      ///< rows without the event, as published
  every_row  ///< every row once
};

/// @brief Choices of WeightedLogistic.
struct WeightedLogisticOptions {
  /// Which rows are negatives.
  WeightedLogisticForm form = WeightedLogisticForm::every_row;
  /// The context column of the event (> 0 = happened), such as a click; empty = the label itself is > 0. For the odds form.
  std::string event = {};
};

/// @brief For an output o and a watch time T ≥ 0 in its own unit. Any device, no synchronisation.
///
/// Every-row form: l = T·softplus(−o) + softplus(o); at the optimum e^o = mean T exactly. Odds form: l = T·softplus(−o) in rows with the event, softplus(o)
/// in the others; at the optimum e^o = Σ T / (rows without the event), which is near E[T] where the event is rare, and has no bound where it happens
/// in nearly every row. The prediction is e^o in the label's unit.
///
/// Width 1. Labels in [0, ∞). dl/do = −T·σ(−o), σ(o), or their sum: convex in o. Finite for every o; the prediction goes on as a straight line from o = 80
/// (e^80 = 5.5e34) on. Source: Covington et al., Deep Neural Networks for YouTube Recommendations, 2016, §4.2,
/// whose form is the odds form.
///
///     at::Tensor per_row = htl::WeightedLogistic{}(outputs, seconds);   // [B]
struct WeightedLogistic {
  /// @brief With its options.
  /// @throws c10::ValueError for an event's column in the every-row form, which has no use for one
  explicit WeightedLogistic(WeightedLogisticOptions choices = {}) : options(std::move(choices)) {
    HTL_CHECK(options.event.empty() || options.form == WeightedLogisticForm::odds,
              "htl::WeightedLogistic: the form every_row reads no event, got the column \"", options.event, "\"; leave it out, or take the form odds");
  }
  /// What it was made with.
  WeightedLogisticOptions options;

  /// The label's own unit.
  static constexpr bool in_label_unit = true;
  /// @brief "weighted_logistic"
  std::string name() const { return "weighted_logistic"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }
  /// @brief form, event
  Options parameters() const {
    Options result = {{"form", options.form == WeightedLogisticForm::odds ? "odds" : "every_row"}};
    if (!options.event.empty()) result.set("event", options.event);
    return result;
  }
  /// @brief The event's column, if one was named.
  std::vector<std::string> context() const { return options.event.empty() ? std::vector<std::string>{} : std::vector{options.event}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief [B] from outputs [B] or [B, 1] and watch times [B]; the event is T > 0.
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const { return (*this)(outputs, labels, labels); }
  /// @brief The same with the events [B], > 0 where they happened.
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels, const at::Tensor& events) const {
    const at::Tensor o = detail::column("htl::WeightedLogistic", outputs, labels);
    check_shape("htl::WeightedLogistic", "events", events, {o.size(0)});
    const at::Tensor positive = labels.to(o.scalar_type()).mul(detail::softplus(o.neg())), negative = detail::softplus(o);
    const at::Tensor unknown = events.sub(events).add(labels.sub(labels)).to(o.scalar_type());  // NaN where one of them is: neither with the event nor without
    return options.form == WeightedLogisticForm::odds ? at::where(events.gt(0), positive, negative).add(unknown) : positive.add(negative);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label, events(input)); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    if (options.event.empty()) return one_pass(*this, input, input.label, share);
    return one_pass(*this, input, at::stack({input.label, events(input)}).t(), share);
  }
  /// @brief e^o [B], in the label's unit.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::bounded_exp(detail::column("htl::WeightedLogistic", output)); }

  /// @brief One row in fp64 from T and, where a column was named, the event.
  double row(const double* output, const double* columns, double* slope) const {
    const detail::Logistic logistic = detail::logistic(*output);
    return row(&logistic, output, columns, slope);
  }
  /// @brief The same with the output's logistic functions at hand.
  double row(const detail::Logistic* logistic, const double*, const double* columns, double* slope) const {
    const double seconds = columns[0], event = options.event.empty() ? seconds : columns[1];
    const double every = options.form == WeightedLogisticForm::odds ? 0.0 : 1.0, happened = detail::is_positive(event);
    const double missed = 1.0 - happened, positive = seconds * (happened + every * missed), negative = missed + every * happened;
    *slope = negative * logistic->up - positive * logistic->down;
    return positive * logistic->under + negative * logistic->over + (event - event);  // an event that is NaN is none of both
  }

 private:
  at::Tensor events(const LossInput& input) const {
    return options.event.empty() ? input.label : detail::column_of("htl::WeightedLogistic", input.context, options.event, input.output.scalar_type());
  }
};

}  // namespace htl
