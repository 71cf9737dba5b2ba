// SPDX-License-Identifier: Apache-2.0
/// @file label_curve.hpp
/// @brief The evaluation weights of a label embedding's rows as a function of one row of logits, by loops, without tensors.
#pragma once

#include <htl/transfer/label_embedding.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
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
/// `expected_soft` comes from tables made once: within 1e-9 for binary tasks, 1e-6 for more classes.
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
      slope_ = as_vector(table.log_slope.exp());
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
    if (evaluation_ == LabelEvaluation::expected_soft) {
      mean_of_classes(logits, top, p);
      return;
    }
    double total = 0.0;
    for (int64_t k = 0; k < classes_; ++k) {
      const bool is_argmax = evaluation_ == LabelEvaluation::argmax;
      p[k] = is_argmax ? Scalar(logits + k == best) : static_cast<Scalar>(std::exp((static_cast<double>(logits[k]) - top) / temperature_));
      total += static_cast<double>(p[k]);
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
  /// The quadrature of mean_weights_of_classes(). Nodes are eight cells apart, so that each class has one set of four factors for all of them.
  template <class Scalar>
  void mean_of_classes(const Scalar* logits, double top, Scalar* p) const {
    constexpr size_t nodes = 79, cells_apart = 8;  // -7.5, -7, … 31.5: before them the integrand is 0
    std::array<double, nodes> product{};           // log, then value, of Π_j F(x − a_j)
    const auto at_nodes = [&](Scalar logit, const std::vector<double>& values, const auto& visit) {
      const double place = ((top - static_cast<double>(logit)) / scale_ - 7.5 - GumbelSumTable::low) / GumbelSumTable::step;
      if (!(place < static_cast<double>(values.size() - 3))) return;  // F = 1 there
      const double cell = std::floor(place), u = place - cell;
      const std::array<double, 4> factors{-u * (u - 1) * (u - 2) / 6, (u + 1) * (u - 1) * (u - 2) / 2, -(u + 1) * u * (u - 2) / 2, (u + 1) * u * (u - 1) / 6};
      const size_t first = static_cast<size_t>(cell) - 1;
      for (size_t n = 0, i = first; n < nodes && i + 3 < values.size(); ++n, i += cells_apart)
        visit(n, factors[0] * values[i] + factors[1] * values[i + 1] + factors[2] * values[i + 2] + factors[3] * values[i + 3]);
    };
    for (int64_t k = 0; k < classes_; ++k) at_nodes(logits[k], log_distribution_, [&](size_t n, double log) { product[n] += log; });
    for (double& value : product) value = std::exp(value);
    double total = std::isnan(top) ? top : 0.0;
    for (int64_t k = 0; k < classes_; ++k) {
      double sum = 0.0;
      at_nodes(logits[k], slope_, [&](size_t n, double slope) { sum += slope * product[n]; });
      p[k] = static_cast<Scalar>(sum);
      total += sum;
    }
    for (int64_t k = 0; k < classes_; ++k) p[k] = static_cast<Scalar>(static_cast<double>(p[k]) / total);
  }

  int64_t classes_;
  LabelEvaluation evaluation_;
  double temperature_ = 1.0, scale_ = 1.0;
  std::vector<double> curve_, log_distribution_, slope_;
};

}  // namespace htl::detail
