// SPDX-License-Identifier: Apache-2.0
/// @file zero_inflated_gamma.hpp
/// @brief ZeroInflatedGamma: ZILN with a gamma distribution, whose tail is lighter, in place of the log-normal one.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/gamma.hpp>

#include <ATen/ops/where.h>

#include <limits>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief l = BCE(a, [y > 0]) + [y > 0]·Gamma(η, k; y) of outputs (a, η) and that of k, and a label y ≥ 0; a given `shape` takes the place of the last output.
///
/// dl/da = σ(a) − [y > 0]; η and k have slopes in positive rows only, those of Gamma. The prediction is the mean σ(a)·e^η, from log σ(a) + η, whose exponential
/// goes on as its tangent above 80. Any device, no synchronisation; Gamma's cost in positive rows.
///
/// Source: ziln.hpp's and gamma.hpp's; a hurdle model, whose zeros come from the event alone.
///
///     const htl::ZeroInflatedGamma loss;
///     at::Tensor per_row = loss(outputs, labels);   // [B] from [B, 3] and [B]
class ZeroInflatedGamma {
 public:
  /// @brief With choices.
  /// @throws c10::ValueError unless shape and bounds are > 0 and in order
  explicit ZeroInflatedGamma(GammaOptions options = {}) : rows_("htl::ZeroInflatedGamma", options) {}

  /// @brief It reads the label itself.
  static constexpr bool in_label_unit = true;
  /// @brief "zero_inflated_gamma"
  std::string name() const { return "zero_inflated_gamma"; }
  /// @brief 3: a, η and that of k; 2 with a given shape
  int64_t output_width() const { return 1 + rows_.width(); }
  /// @brief shape; or shape_floor and max_shape
  Options parameters() const { return rows_.parameters(); }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }

  /// @brief [B] from outputs [B, W] and labels [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels) const {
    check(outputs);
    check_shape("htl::ZeroInflatedGamma", "labels", labels, {outputs.size(0)});
    const at::Tensor y = labels.to(outputs.scalar_type()), positive = y.gt(0), zero = positive.logical_not(), a = outputs.select(1, 0);
    const at::Tensor event = detail::softplus(at::where(positive, a.neg(), a));
    const at::Tensor value = of_value(outputs).masked_fill(zero.unsqueeze(1), 0);  // where e^−η may be infinite, and times no gradient NaN
    return event.add(rows_.rows(value, detail::log_label(y.masked_fill(zero, 1))).masked_fill(zero, 0))
        .masked_fill(y.isnan(), std::numeric_limits<double>::quiet_NaN());
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, input.label, share); }
  /// @brief The mean σ(a)·e^η [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check(output);
    return detail::bounded_exp(at::log_sigmoid(output.select(1, 0)).add(output.select(1, 1)));
  }
  /// @brief [B] σ(a), the probability of y > 0
  at::Tensor probability(const at::Tensor& outputs) const {
    check(outputs);
    return outputs.select(1, 0).sigmoid();
  }
  /// @brief [B] k
  at::Tensor shape(const at::Tensor& outputs) const {
    check(outputs);
    return rows_.shape(of_value(outputs));
  }

  /// @brief One row in fp64.
  double row(const double* output, const double* label, double* slope) const {
    const detail::Logistic at_a = detail::logistic(output[0]);
    if (*label > 0.0) {
      slope[0] = -at_a.down;
      return at_a.under + rows_.row(output + 1, detail::log_label(*label), slope + 1);
    }
    const double zero = std::isnan(*label) ? *label : 0.0;
    slope[0] = at_a.up + zero;
    std::fill(slope + 1, slope + output_width(), 0.0);
    return at_a.over + zero;
  }

 private:
  void check(const at::Tensor& outputs) const { check_shape("htl::ZeroInflatedGamma", "outputs", outputs, {-1, output_width()}); }
  at::Tensor of_value(const at::Tensor& outputs) const { return outputs.narrow(1, 1, rows_.width()); }
  detail::GammaRows rows_;
};

}  // namespace htl
