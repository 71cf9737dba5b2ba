// SPDX-License-Identifier: Apache-2.0
/// @file gini.hpp
/// @brief NormalizedGini: how much of the value (revenue, watch time) the highest predictions hold, against the perfect order.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief raw(predictions) / raw(labels), with raw(s) = 2·mean_i C_i − 1 and C_i the share of Σ y held by the i highest by s.
///
/// 1 for the perfect order, about 0 for a random one (exactly 1/(n·raw(labels)): a bias of order 1/n, kept because published figures have it).
/// *Ties* in the prediction: the expectation over all orders of the tied rows; raw is linear in y, so that is each tied row holding its group's mean.
/// A row of weight w stands for w copies, tied with each other.
/// **Device.** see metric.hpp. **Cost.** 24 bytes a row; value() sorts twice, O(n log n). **Source.** Wang, Liu, Miao, "A Deep Probabilistic Model for Customer
/// Lifetime Value Prediction", 2019, arXiv 1912.07753, Sec. 4.3 and its published code, which leaves ties to the sort.
class NormalizedGini {
 public:
  /// @brief Adds a batch.
  /// @param prediction [B] on any device; only the order matters
  /// @param label numbers ≥ 0, with mask and weight
  /// @throws c10::ValueError on a wrong shape, and naming the row on a prediction or label that is not finite, a label below 0, or a bad weight
  void add(const at::Tensor& prediction, const Label& label) {
    std::vector<Row> batch;
    detail::for_each_observed("htl::NormalizedGini", prediction, label, [&](int64_t row, double guess, double value, double weight) {
      HTL_CHECK(value >= 0.0, "htl::NormalizedGini: expected labels ≥ 0, shares of a total, got ", value, " in row ", row, " of the batch");
      batch.push_back({guess + 0.0, value + 0.0, weight});
    });
    rows_.insert(rows_.end(), batch.begin(), batch.end());
  }
  /// @brief Adds what another accumulator has seen.
  void merge(const NormalizedGini& other) { rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end()); }
  /// @brief raw() / perfect(), at most 1; NaN where all labels are equal (every order is perfect), all are 0, or nothing was added.
  double value() const {
    const bool varies = std::any_of(rows_.begin(), rows_.end(), [&](const Row& row) { return row.label != rows_.front().label; });
    return varies ? raw() / perfect() : std::numeric_limits<double>::quiet_NaN();
  }
  /// @brief The raw coefficient of the predictions' order; NaN where the labels sum to 0.
  double raw() const { return coefficient<&Row::prediction>(); }
  /// @brief The raw coefficient of the labels' own order, the greatest that any order reaches; NaN where the labels sum to 0.
  double perfect() const { return coefficient<&Row::label>(); }

 private:
  struct Row {
    double prediction;
    double label;
    double weight;
    friend auto operator<=>(const Row&, const Row&) = default;
  };
  template <double Row::*by>
  double coefficient() const {
    std::vector<Row> rows = rows_;
    std::sort(rows.begin(), rows.end());
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.*by > b.*by; });
    double held = 0.0, copies = 0.0, area = 0.0;
    for (size_t first = 0; first < rows.size();) {
      size_t last = first;
      double weight = 0.0, sum = 0.0;
      for (; last < rows.size() && rows[last].*by == rows[first].*by; ++last) {
        weight += rows[last].weight;
        sum += rows[last].weight * rows[last].label;
      }
      area += weight * held + 0.5 * sum * (weight + 1.0);  // Σ over the group's copies k = 1 … W of held + k·sum/W
      held += sum;
      copies += weight;
      first = last;
    }
    return held > 0.0 ? 2.0 * area / (held * copies) - 1.0 : std::numeric_limits<double>::quiet_NaN();
  }
  std::vector<Row> rows_;
};

}  // namespace htl
