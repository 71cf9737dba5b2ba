// SPDX-License-Identifier: Apache-2.0
/// @file spearman.hpp
/// @brief Spearman: the correlation of ranks, exact with ties and weights.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Pearson's correlation of the weighted average ranks of prediction and label.
///
/// The rank of x is (weight below x) + ½ (weight at x), up to a constant the mean rank of its copies: equal values share a rank.
/// **Device.** see metric.hpp. **Cost.** 24 bytes a row; value() sorts twice, O(n log n), 16 bytes a row more.
class Spearman {
 public:
  /// @brief Adds a batch.
  /// @param prediction [B] on any device
  /// @param label any numbers, with mask and weight
  /// @throws c10::ValueError on a wrong shape, and naming the row on a prediction or label that is not finite, or a bad weight
  void add(const at::Tensor& prediction, const Label& label) {
    std::vector<Row> batch;
    detail::for_each_observed("htl::Spearman", prediction, label, [&](int64_t, double guess, double value, double weight) {
      batch.push_back({guess + 0.0, value + 0.0, weight});
    });
    rows_.insert(rows_.end(), batch.begin(), batch.end());
  }
  /// @brief Adds what another accumulator has seen.
  void merge(const Spearman& other) { rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end()); }
  /// @brief ρ in [−1, 1]; NaN where predictions or labels are all equal, or nothing was added.
  double value() const {
    std::vector<Row> rows = rows_;
    std::sort(rows.begin(), rows.end());  // one order, whatever the order of arrival: bit-identical sums
    rank<&Row::prediction>(rows);
    rank<&Row::label>(rows);
    double total = 0.0;
    for (const Row& row : rows) total += row.weight;
    double xx = 0.0, yy = 0.0, xy = 0.0;
    for (const Row& row : rows) {  // every set of average ranks has the weighted mean total / 2
      const double x = row.prediction - 0.5 * total, y = row.label - 0.5 * total;
      xx += row.weight * x * x;
      yy += row.weight * y * y;
      xy += row.weight * x * y;
    }
    const bool varies = rows.size() > 1 && differ<&Row::prediction>(rows) && differ<&Row::label>(rows);
    return varies ? std::clamp(xy / (std::sqrt(xx) * std::sqrt(yy)), -1.0, 1.0) : std::numeric_limits<double>::quiet_NaN();
  }

 private:
  struct Row {
    double prediction;
    double label;
    double weight;
    friend auto operator<=>(const Row&, const Row&) = default;
  };
  /// Replaces a member by its weighted average rank.
  template <double Row::*member>
  static void rank(std::vector<Row>& rows) {
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.*member < b.*member; });
    double below = 0.0;
    for (size_t first = 0; first < rows.size();) {
      size_t last = first;
      double weight = 0.0;
      for (; last < rows.size() && rows[last].*member == rows[first].*member; ++last) weight += rows[last].weight;
      for (size_t i = last; i-- > first;) rows[i].*member = below + 0.5 * weight;
      below += weight;
      first = last;
    }
  }
  template <double Row::*member>
  static bool differ(const std::vector<Row>& rows) {
    return std::any_of(rows.begin(), rows.end(), [&](const Row& row) { return row.*member != rows.front().*member; });
  }
  std::vector<Row> rows_;
};

}  // namespace htl
