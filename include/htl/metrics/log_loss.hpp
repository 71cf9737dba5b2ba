// SPDX-License-Identifier: Apache-2.0
/// @file log_loss.hpp
/// @brief LogLoss: the mean negative log-likelihood of binary or multiclass labels.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>

namespace htl::inline v0_1_0 {

namespace detail {

/// −y log p − (1 − y) log(1 − p) with p clipped to [ε, 1 − ε].
inline double cross_entropy(double probability, double label, double epsilon) {
  const double p = std::clamp(probability, epsilon, 1.0 - epsilon);
  return -label * std::log(p) - (1.0 - label) * std::log1p(-p);
}
/// The ε at which probabilities of an element type are clipped: the type's own resolution, so that a saturated sigmoid stays finite.
inline double probability_resolution(const at::Tensor& probability) {
  switch (probability.scalar_type()) {
    case at::kFloat:
      return std::numeric_limits<float>::epsilon();
    case at::kHalf:
      return 0x1p-10;
    case at::kBFloat16:
      return 0x1p-7;
    default:
      return std::numeric_limits<double>::epsilon();
  }
}
inline void check_probability(std::string_view who, double probability, int64_t row) {
  HTL_CHECK(probability >= 0.0 && probability <= 1.0, who, ": expected probabilities in [0, 1], got ", probability, " in row ", row,
            " of the batch; apply a sigmoid (tasks.predict does), or use LogLoss::add_logits");
}

}  // namespace detail

/// @brief Σ w l / Σ w with l = −y log p − (1 − y) log(1 − p), or −log p_y for K classes. Natural logarithm (nats).
///
/// Probabilities are clipped to [ε, 1 − ε] with the ε of their element type (float32: 1.2e-7), since a saturated float32 sigmoid is exactly 1;
/// add_logits needs no clipping and is exact. **Device.** see metric.hpp. **Cost.** two numbers in all; O(B) a batch.
class LogLoss {
 public:
  /// @brief Adds a batch of probabilities.
  /// @param probability [B] of the event, or [B, K] of the classes
  /// @param label [B, prediction] a number in [0, 1] (soft labels count), with [B, K] a class index; with mask and weight
  /// @throws c10::ValueError on a wrong shape, and naming the row on a probability outside [0, 1], a label outside its range, a bad weight
  void add(const at::Tensor& probability, const Label& label) {
    if (probability.defined() && probability.dim() == 2) return add_classes(probability, label);
    double sum = 0.0, weights = 0.0;
    const double epsilon = probability.defined() ? detail::probability_resolution(probability) : 0.0;
    detail::for_each_observed("htl::LogLoss", probability, label, [&](int64_t row, double p, double y, double weight) {
      detail::check_probability("htl::LogLoss", p, row);
      check_soft_label(y, row);
      sum += weight * detail::cross_entropy(p, y, epsilon);
      weights += weight;
    });
    commit(sum, weights);
  }
  /// @brief Adds a batch of binary logits: softplus(z) − y z, exact for every finite z.
  void add_logits(const at::Tensor& logit, const Label& label) {
    double sum = 0.0, weights = 0.0;
    detail::for_each_observed("htl::LogLoss", logit, label, [&](int64_t row, double z, double y, double weight) {
      check_soft_label(y, row);
      sum += weight * (std::max(z, 0.0) - y * z + std::log1p(std::exp(-std::abs(z))));
      weights += weight;
    });
    commit(sum, weights);
  }
  /// @brief Adds what another accumulator has seen.
  void merge(const LogLoss& other) { commit(other.sum_, other.weight_); }
  /// @brief The mean in nats; NaN if nothing was added.
  double value() const { return weight_ > 0.0 ? sum_ / weight_ : std::numeric_limits<double>::quiet_NaN(); }

 private:
  static void check_soft_label(double y, int64_t row) {
    HTL_CHECK(y >= 0.0 && y <= 1.0, "htl::LogLoss: expected labels in [0, 1], got ", y, " in row ", row, " of the batch");
  }
  void add_classes(const at::Tensor& probability, const Label& label) {
    const detail::ObservedRows observed("htl::LogLoss", label);
    check_shape("htl::LogLoss", "probabilities", probability, {observed.rows(), -1});
    const at::Tensor held = probability.detach().to(at::kCPU, at::kDouble).contiguous();
    const double* data = held.const_data_ptr<double>();
    const int64_t classes = held.size(1);
    const double epsilon = detail::probability_resolution(probability);
    double sum = 0.0, weights = 0.0;
    observed.for_each([&](int64_t row, double y, double weight) {
      HTL_CHECK(y >= 0.0 && y < static_cast<double>(classes) && y == std::floor(y), "htl::LogLoss: expected class indices in [0, ", classes, "), got ", y,
                " in row ", row, " of the batch");
      const double p = data[row * classes + static_cast<int64_t>(y)];
      detail::check_finite_prediction("htl::LogLoss", p, row);
      detail::check_probability("htl::LogLoss", p, row);
      sum -= weight * std::log(std::max(p, epsilon));
      weights += weight;
    });
    commit(sum, weights);
  }
  void commit(double sum, double weights) {
    sum_ += sum;
    weight_ += weights;
  }
  double sum_ = 0.0;
  double weight_ = 0.0;
};

}  // namespace htl
