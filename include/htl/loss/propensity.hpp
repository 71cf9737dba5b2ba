// SPDX-License-Identifier: Apache-2.0
/// @file propensity.hpp
/// @brief Propensity: how likely a row's label was to be seen, and what the row weighs for it.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/other_tasks.hpp>

#include <ATen/ops/where.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Where the event o that shows a label comes from, and its probability p; p is always cut off from the gradient.
struct Propensity {
  /// The binary task whose label is o and whose output's column 0 is the logit of p. Empty: every row that counts was seen, and `column` must be named.
  std::string given = {};
  /// The context column of p, instead of the given task's output; empty = that output.
  std::string column = {};
  /// p is at least this.
  double floor = 1e-6;
  /// 1/p is at most this; finite.
  double clip = 15.0;

  /// @brief Refuses what is no good; `who` begins the sentence.
  void check(std::string_view who) const {
    HTL_CHECK(!given.empty() || !column.empty(), who, ": expected a task as given, or a context column of propensities, got neither");
    HTL_CHECK(floor > 0.0 && floor <= 1.0, who, ": expected a floor of the propensity in (0, 1], got ", floor);
    HTL_CHECK(clip >= 1.0 && std::isfinite(clip), who, ": expected a finite clip ≥ 1 of the inverse propensity, got ", clip);
  }
  /// @brief [B] o.
  at::Tensor event(std::string_view who, const LossInput& input) const {
    return given.empty() ? input.output.select(1, 0).detach().new_ones({input.output.size(0)}) : detail::event_of(who, input.labels, given, input.output);
  }
  /// @brief [B] max(p, floor).
  at::Tensor probability(std::string_view who, const LossInput& input) const {
    const at::Tensor p = column.empty() ? detail::output_of(who, input.outputs, given, input.output).detach().sigmoid()
                                        : detail::column_of(who, input.context, column, input.output.scalar_type());
    check_shape(who, "propensities", p, {input.output.size(0)});
    if (!column.empty() && p.is_cpu() && p.size(0) > 0) {
      const double most = (input.weight.defined() ? p.masked_fill(input.weight.eq(0), 0) : p).amax().item<double>();
      HTL_CHECK(!(most > 1.0 + 1e-6), who, ": expected propensities up to 1 in the context column \"", column, "\", got ", most,
                "; a percentage is divided by 100");
    }
    return p.clamp_min(floor);
  }
  /// @brief [B] o·min(1/p, clip); 0 where o is 0, whatever p is.
  at::Tensor weight(std::string_view who, const LossInput& input) const {
    const at::Tensor seen = event(who, input).gt(0);
    return at::where(seen, probability(who, input).reciprocal().clamp_max(clip), 0.0);
  }
  /// @brief given, propensity, floor, clip as options.
  Options parameters() const {
    Options result;
    if (!given.empty()) result.set("given", given);
    if (!column.empty()) result.set("propensity", column);
    result.set("floor", floor).set("clip", clip);
    return result;
  }
  /// @brief The context column, if one is named.
  std::vector<std::string> context() const { return column.empty() ? std::vector<std::string>{} : std::vector{column}; }
  /// @brief The given task, if one is named.
  std::vector<std::string> reads() const { return given.empty() ? std::vector<std::string>{} : std::vector{given}; }
};

}  // namespace htl
