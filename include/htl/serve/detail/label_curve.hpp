// SPDX-License-Identifier: Apache-2.0
/// @file label_curve.hpp
/// @brief The evaluation weights of a label embedding's rows as a function of one row of logits, by loops, without tensors.
#pragma once

#include <htl/transfer/label_embedding.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief The cubic through four neighbours of a grid, at `position` ≥ 1 in cells.
inline double interpolate_cubic(const std::vector<double>& values, double position) {
  const double cell = std::floor(position), u = position - cell;
  const double* const near = values.data() + static_cast<std::ptrdiff_t>(cell);
  const double a = near[-1], b = near[0], c = near[1], d = near[2];
  return b + u * ((c - a / 3 - b * 0.5 - d / 6) + u * ((a + c) * 0.5 - b + u * ((b - c) * 0.5 + (d - a) / 6)));
}

/// @brief Weights p [K] of one row as LabelEmbedding has them in evaluation at its present temperature; see LabelEvaluation.
///
/// `expected_soft` comes from tables made once: within 1e-9 for binary tasks, and as exact as LabelEmbedding's own (1e-7) for more classes.
class LabelCurve {
 public:
  /// @brief Reads options and temperature of a unit.
  explicit LabelCurve(const LabelEmbeddingImpl& unit) : classes_(unit.options.classes()), evaluation_(unit.evaluation()) {
    temperature_ = evaluation_ == LabelEvaluation::plain || evaluation_ == LabelEvaluation::argmax ? 1.0 : unit.temperature();
    if (evaluation_ != LabelEvaluation::expected_soft) return;
    scale_ = std::max(temperature_, 1.0);
    const at::Tensor tau = at::full({}, temperature_, at::kDouble);
    const auto as_vector = [](const at::Tensor& values) {
      const at::Tensor dense = values.contiguous();
      return std::vector<double>(dense.const_data_ptr<double>(), dense.const_data_ptr<double>() + dense.numel());
    };
    if (classes_ == 2) {
      curve_ = as_vector(mean_weight(at::arange(-1.0, cells + 3.0, at::kDouble) * (scale_ / per_unit), tau));
    } else {
      const GumbelSumTable table(at::minimum(tau, tau.reciprocal()));
      log_distribution_ = as_vector(table.log_distribution);
      log_slope_ = as_vector(table.log_slope);
    }
  }

  /// @brief K.
  int64_t classes() const { return classes_; }

  /// @brief The weights of one row.
  /// @param logits one (binary) or K
  /// @param p K results
  template <class Scalar>
  void weights(const Scalar* logits, Scalar* p) const {
    if (classes_ == 2) {
      const double positive = binary(static_cast<double>(*logits));
      p[0] = static_cast<Scalar>(positive);
      p[1] = static_cast<Scalar>(1.0 - positive);
      return;
    }
    const Scalar* const best = first_largest(logits);
    const double top = static_cast<double>(*best);
    const bool is_argmax = evaluation_ == LabelEvaluation::argmax, is_mean = evaluation_ == LabelEvaluation::expected_soft;
    double total = 0.0;
    if (is_mean) std::fill_n(p, classes_, std::isnan(top) ? std::numeric_limits<Scalar>::quiet_NaN() : Scalar(0));
    if (is_mean && std::isnan(top)) return;
    for (int64_t k = 0; !is_mean && k < classes_; ++k) {
      p[k] = is_argmax ? Scalar(logits + k == best) : static_cast<Scalar>(std::exp((static_cast<double>(logits[k]) - top) / temperature_));
      total += static_cast<double>(p[k]);
    }
    for (double node = -8.0; is_mean && node < 32.0; node += 0.5) {
      double common = 0.0;
      for (int64_t k = 0; k < classes_; ++k) common += interpolate_cubic(log_distribution_, position(top, logits[k], node));
      for (int64_t k = 0; k < classes_; ++k) {
        const double term = std::exp(interpolate_cubic(log_slope_, position(top, logits[k], node)) + common);
        p[k] += static_cast<Scalar>(term);
        total += term;
      }
    }
    for (int64_t k = 0; k < classes_; ++k) p[k] = static_cast<Scalar>(static_cast<double>(p[k]) / total);
  }

 private:
  static constexpr double per_unit = 64.0, cells = 40.0 * per_unit;

  double binary(double logit) const {
    if (evaluation_ == LabelEvaluation::argmax) return logit > 0.0 ? 1.0 : 0.0;
    if (evaluation_ != LabelEvaluation::expected_soft) return 1.0 / (1.0 + std::exp(-logit / temperature_));
    if (std::isnan(logit)) return logit;
    const double upper = interpolate_cubic(curve_, 1.0 + std::min(std::abs(logit) / scale_ * per_unit, cells));
    return logit < 0.0 ? 1.0 - upper : upper;
  }
  /// The largest logit, the first of equals; a NaN wins, so that it shows in every weight.
  template <class Scalar>
  const Scalar* first_largest(const Scalar* logits) const {
    const Scalar* best = logits;
    for (const Scalar* logit = logits; logit < logits + classes_ && !std::isnan(*best); ++logit)
      if (std::isnan(*logit) || *logit > *best) best = logit;
    return best;
  }
  template <class Scalar>
  double position(double top, Scalar logit, double node) const {
    constexpr double low = GumbelSumTable::low, high = GumbelSumTable::high, step = GumbelSumTable::step;
    const double x = (top - static_cast<double>(logit)) / scale_ + node;
    return (std::clamp(x, low + step, high - 3 * step) - low) / step;
  }

  int64_t classes_;
  LabelEvaluation evaluation_;
  double temperature_ = 1.0, scale_ = 1.0;
  std::vector<double> curve_, log_distribution_, log_slope_;
};

}  // namespace htl::detail
