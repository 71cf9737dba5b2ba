// SPDX-License-Identifier: Apache-2.0
/// @file cread.hpp
/// @brief CREAD: watch time as the chances to go beyond M splits, restored to a number.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/exponentials.hpp>
#include <htl/loss/detail/label_statistics.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/huber_loss.h>

#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices and statistics of CREAD.
struct CREADOptions {
  /// M, at most 1024
  int64_t splits = 50;
  /// α of the error-adaptive discretisation: 0 puts the splits at equally spaced quantiles, more moves them into the upper tail.
  double alpha = 1.0;
  /// The factor of the restored number's Huber loss.
  double restoration = 1.0;
  /// That loss's δ, in the label's unit.
  double delta = 1.0;
  /// The factor of the penalty for chances that grow from one split to the next.
  double ordinal = 2e-5;
  /// The statistics: s_1 ≤ … ≤ s_M, all ≥ 0. Empty = not fitted.
  std::vector<double> points = {};
  /// Whether the points come from fitted(), which makes them anew when it is called again; false: they were given, and stay.
  bool fitted_points = false;
};

/// @brief l = 1/M Σ_m BCE(z_m, [t > s_m]) + r·Huber_δ(t̂ − t) + o·Σ_m max(φ_{m+1} − φ_m, 0), with φ = σ(z), t̂ = Σ_m φ_m·(s_m − s_{m−1}), s_0 = 0.
///
/// Width M. Labels t in [0, ∞) in their own unit. The prediction is t̂.
/// fitted() puts s_m at the quantile of level (1 − e^{−α·m/M})/(1 − e^{−α}) of the training
/// labels; s_M is the largest, which no label is beyond, and t̂ is a lower sum of ∫P(T > t)dt: both as published. Splits that fall together add nothing
/// to t̂. Labels and splits are compared in float32, so that ties stay ties in every type. Finite for all finite logits and labels; gradient bounded: |dl/dz_m|
/// ≤ 1/M + r·δ·(s_m − s_{m−1})/4 + o. O(B·M). On other devices than the CPU the splits are copied there in each call, which synchronises.
///
/// Source: Sun et al., CREAD: A Classification-Restoration Framework with Error Adaptive Discretization, AAAI 2024.
struct CREAD {
  /// @brief With its options.
  /// @throws c10::ValueError for options out of their range, or splits of another count, negative or not ascending
  explicit CREAD(CREADOptions choices = {}) : options(std::move(choices)) {
    HTL_CHECK(options.splits >= 1 && options.splits <= static_cast<int64_t>(kMostSplits), kWho, ": expected 1 to ", kMostSplits, " splits, got ",
              options.splits);
    HTL_CHECK(options.alpha >= 0.0 && std::isfinite(options.alpha), kWho, ": expected a finite alpha ≥ 0, got ", options.alpha);
    HTL_CHECK(options.restoration >= 0.0 && std::isfinite(options.restoration), kWho, ": expected a finite restoration ≥ 0, got ", options.restoration);
    HTL_CHECK(options.delta > 0.0 && std::isfinite(options.delta), kWho, ": expected a finite delta > 0, got ", options.delta);
    HTL_CHECK(options.ordinal >= 0.0 && std::isfinite(options.ordinal), kWho, ": expected a finite ordinal ≥ 0, got ", options.ordinal);
    HTL_CHECK(options.points.empty() || static_cast<int64_t>(options.points.size()) == options.splits, kWho, ": expected ", options.splits, " points, got ",
              options.points.size());
    detail::check_ascending(kWho, "points", options.points, false);
    HTL_CHECK(options.points.empty() || options.points.front() >= 0.0, kWho, ": expected points ≥ 0, got ", options.points.front());
    double before = 0.0;
    for (const double point : options.points) {
      steps_.push_back(point - std::exchange(before, point));
      singles_.push_back(detail::in_single(point));
    }
  }
  /// What it was made with, and its statistics.
  CREADOptions options;

  /// The label's own unit.
  static constexpr bool in_label_unit = true;
  /// @brief "cread"
  std::string name() const { return "cread"; }
  /// @brief M
  int64_t output_width() const { return options.splits; }
  /// @brief [0, ∞)
  std::pair<double, double> label_range() const { return {0.0, std::numeric_limits<double>::infinity()}; }
  /// @brief splits, alpha, restoration, delta, ordinal, and the statistics points, and whether they were fitted
  Options parameters() const {
    Options result = {
        {"splits", options.splits}, {"alpha", options.alpha}, {"restoration", options.restoration}, {"delta", options.delta}, {"ordinal", options.ordinal}};
    detail::add_fitted(result, "points", options.points, options.fitted_points);
    return result;
  }
  /// @brief Whether the splits are there.
  bool is_fitted() const { return !options.points.empty(); }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief The level in [0, 1] of the m-th split's quantile, m = 1 … M.
  double level(int64_t m) const {
    const double z = static_cast<double>(m) / static_cast<double>(options.splits);
    return options.alpha < 1e-12 ? z : std::min(1.0, std::expm1(-options.alpha * z) / std::expm1(-options.alpha));
  }
  /// @brief A copy with the splits of training labels; itself where they were given.
  /// @throws c10::ValueError without rows, or for labels that are negative or not finite
  CREAD fitted(const Label& label, const Named<at::Tensor>&) const {
    CREADOptions changed = options;
    if (detail::are_given(changed.points, changed.fitted_points)) return *this;
    std::vector<double> labels = detail::column_numbers(kWho, "label", label.value);
    std::transform(labels.begin(), labels.end(), labels.begin(), detail::in_single);
    std::sort(labels.begin(), labels.end());
    HTL_CHECK(labels.front() >= 0.0, kWho, ": expected labels ≥ 0, got ", labels.front());
    changed.points.clear();
    for (int64_t m = 1; m <= options.splits; ++m) changed.points.push_back(detail::quantile_of(labels, level(m)));
    return CREAD(std::move(changed));
  }

  /// @brief [B] from logits [B, M] and labels [B].
  /// @throws c10::ValueError on other shapes; c10::Error if it is not fitted
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    check_fitted();
    check_shape(kWho, "logits", logits, {-1, options.splits});
    check_shape(kWho, "labels", labels, {logits.size(0)});
    const auto type = logits.scalar_type();
    const at::Tensor beyond = labels.detach().to(at::kFloat).to(at::kDouble).unsqueeze(1).gt(detail::list_like(singles_, logits)).to(type);
    const at::Tensor chance = logits.sigmoid();
    at::Tensor result = at::binary_cross_entropy_with_logits(logits, beyond, {}, {}, at::Reduction::None).mean(1);
    result = result.add(at::huber_loss(restore(chance), labels.to(type), at::Reduction::None, options.delta), options.restoration);
    if (options.splits == 1) return result;
    const at::Tensor growth = chance.narrow(1, 1, options.splits - 1).sub(chance.narrow(1, 0, options.splits - 1));
    return result.add(growth.relu().sum(1), options.ordinal);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    check_fitted();
    return one_pass(*this, input, input.label, share);
  }
  /// @brief t̂ [B], in the label's unit.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check_fitted();
    check_shape(kWho, "logits", output, {-1, options.splits});
    return restore(output.sigmoid());
  }

  /// @brief One row in fp64 from its label.
  double row(const double* output, const double* columns, double* slope) const {
    const double label = *columns;
    const size_t count = steps_.size(), beyond = detail::bucket_of(singles_, detail::in_single(label));  // label > s_m for m < beyond
    std::array<double, kMostSplits + 1> up, down, terms;
    detail::logistic_all(output, count, up.data(), down.data(), terms.data());
    for (size_t m = 0; m < beyond; ++m) terms[m] += detail::positive_part(-output[m]);
    for (size_t m = beyond; m < count; ++m) terms[m] += detail::positive_part(output[m]);
    const double each = 1.0 / static_cast<double>(count), log_loss = each * detail::sum_all(terms.data(), count);
    for (size_t m = 0; m < count; ++m) terms[m] = up[m] * steps_[m];
    const double error = detail::sum_all(terms.data(), count) - label, size = std::abs(error);
    if (std::isnan(error)) {
      std::fill(slope, slope + count, error);
      return error;
    }
    const double huber = size <= options.delta ? 0.5 * error * error : options.delta * (size - 0.5 * options.delta);
    const double pull = options.restoration * (size <= options.delta ? error : std::copysign(options.delta, error));
    for (size_t m = 0; m < beyond; ++m) slope[m] = -each * down[m];
    for (size_t m = beyond; m < count; ++m) slope[m] = each * up[m];
    for (size_t m = 0; m < count; ++m) slope[m] += pull * steps_[m] * (down[m] *= up[m]);  // down: σ'
    double growth = 0.0;
    if (options.ordinal > 0.0) {
      for (size_t m = 1; m < count; ++m) terms[m] = detail::positive_part(up[m] - up[m - 1]);
      growth = detail::sum_all(terms.data() + 1, count - 1);
      terms[0] = 0.0;
      terms[count] = 0.0;
      for (size_t m = 0; m < count; ++m) slope[m] += options.ordinal * down[m] * (detail::is_positive(terms[m]) - detail::is_positive(terms[m + 1]));
    }
    return log_loss + options.restoration * huber + options.ordinal * growth;
  }

 private:
  static constexpr const char* kWho = "htl::CREAD";
  static constexpr size_t kMostSplits = 1024;
  void check_fitted() const { HTL_CHECK_STATE(is_fitted(), kWho, ": the splits are not there; call tasks.fitted(training_labels), or give them as points"); }
  at::Tensor restore(const at::Tensor& chance) const { return chance.mul(detail::list_like(steps_, chance).to(chance.scalar_type())).sum(1); }

  std::vector<double> steps_, singles_;  // s_m − s_{m−1}; s_m in float32
};

}  // namespace htl
