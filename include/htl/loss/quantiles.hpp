// SPDX-License-Identifier: Apache-2.0
/// @file quantiles.hpp
/// @brief Quantiles: several quantiles of one label, an output each.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/quantile.hpp>

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What Quantiles predicts.
enum class QuantilesPredict {
  middle,  ///< the middle quantile; of an even number of levels, the mean of the two in the middle
  mean     ///< the mean of a distribution that has its quantiles: each counts for the levels that are nearest to it
};

/// @brief l = 1/n Σ_i of the pinball losses of outputs x_i [B, n] at the levels q_1 < … < q_n. In the unit of the target.
///
/// dl/dx_i = (1[y < x_i] − q_i) / n, 0 at y = x_i. Outputs are free to cross: quantiles() sorts them, which never makes the loss larger (Chernozhukov,
/// Fernández-Val and Galichon, Quantile and Probability Curves Without Crossing, 2010). Any device, no synchronisation; O(n) a row.
///
/// Width n; any finite target. Convex; finite wherever the differences are.
///
/// `mean` after a label transform is the inverse of a mean of targets, not the mean of labels; the middle quantile keeps its meaning.
///
///     const htl::Quantiles loss({0.1, 0.5, 0.9});
///     at::Tensor per_row = loss(outputs, targets);      // [B] from [B, 3] and [B]
///     at::Tensor band = loss.quantiles(outputs);         // [B, 3], ascending
class Quantiles {
 public:
  /// @brief With ascending levels.
  /// @throws c10::ValueError unless there is at least one level, all in (0, 1) and ascending
  explicit Quantiles(std::vector<double> levels, QuantilesPredict predicts = QuantilesPredict::middle) : levels_(std::move(levels)), predicts_(predicts) {
    HTL_CHECK(!levels_.empty(), "htl::Quantiles: expected at least one level, got none");
    for (size_t i = 0; i < levels_.size(); ++i) {
      HTL_CHECK(levels_[i] > 0.0 && levels_[i] < 1.0, "htl::Quantiles: expected levels in (0, 1), got ", levels_[i]);
      HTL_CHECK(i == 0 || levels_[i] > levels_[i - 1], "htl::Quantiles: expected ascending levels, got ", levels_[i], " after ", levels_[i - 1]);
    }
  }

  /// @brief "quantiles"
  std::string name() const { return "quantiles"; }
  /// @brief n
  int64_t output_width() const { return static_cast<int64_t>(levels_.size()); }
  /// @brief levels, predicts
  Options parameters() const { return {{"levels", levels_}, {"predicts", predicts_ == QuantilesPredict::middle ? "middle" : "mean"}}; }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  /// @brief The levels.
  const std::vector<double>& levels() const { return levels_; }

  /// @brief [B] from outputs [B, n] and targets [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& targets) const {
    check_shape("htl::Quantiles", "outputs", outputs, {-1, output_width()});
    check_shape("htl::Quantiles", "targets", targets, {outputs.size(0)});
    const at::Tensor error = targets.to(outputs.scalar_type()).unsqueeze(1).sub(outputs), q = row_of(levels_, outputs);
    return error.relu().mul(q).add(error.neg().relu().mul(q.neg().add(1))).mean(1);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.target); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return one_pass(*this, input, share); }
  /// @brief [B] what it predicts of outputs [B, n], read from quantiles().
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    const at::Tensor sorted = quantiles(output);
    const int64_t n = output_width();
    if (predicts_ == QuantilesPredict::middle) return sorted.narrow(1, (n - 1) / 2, n % 2 == 1 ? 1 : 2).mean(1);
    std::vector<double> cells(levels_.size());
    for (size_t i = 0; i < cells.size(); ++i) {
      const double from = i == 0 ? 0.0 : 0.5 * (levels_[i - 1] + levels_[i]), to = i + 1 == cells.size() ? 1.0 : 0.5 * (levels_[i] + levels_[i + 1]);
      cells[i] = to - from;
    }
    return sorted.mul(row_of(cells, sorted)).sum(1);
  }
  /// @brief [B, n] the quantiles, ascending, of outputs [B, n].
  at::Tensor quantiles(const at::Tensor& outputs) const {
    check_shape("htl::Quantiles", "outputs", outputs, {-1, output_width()});
    return std::get<0>(outputs.sort(1));
  }

  /// @brief One row in fp64.
  double row(const double* output, double target, double* slope) const {
    const size_t n = levels_.size();
    const double part = 1.0 / static_cast<double>(n);
    double sum = 0.0;
    for (size_t i = 0; i < n; ++i) {
      sum += detail::pinball(target - output[i], levels_[i], slope[i]);
      slope[i] *= part;
    }
    return part * sum;
  }

 private:
  /// [n] numbers, one by one: a list of them would have to be copied to other devices, which synchronises.
  static at::Tensor row_of(const std::vector<double>& numbers, const at::Tensor& like) {
    std::vector<at::Tensor> parts;
    for (const double number : numbers) parts.push_back(at::scalar_tensor(number, like.options()));
    return at::stack(parts);
  }

  std::vector<double> levels_;
  QuantilesPredict predicts_;
};

}  // namespace htl
