// SPDX-License-Identifier: Apache-2.0
/// @file grouped_auc.hpp
/// @brief GroupedAuc: the mean AUC within groups (users, requests): how well rows are ordered for one of them.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The result of a GroupedAuc.
struct GroupedAucReport {
  double value = std::numeric_limits<double>::quiet_NaN();  ///< Σ_g W_g AUC_g / Σ_g W_g over groups with both classes; NaN where there is none
  int64_t groups = 0;                                       ///< groups that entered
  int64_t groups_left_out = 0;                              ///< groups with one class only
  int64_t rows = 0;                                         ///< rows of the groups that entered
  int64_t rows_left_out = 0;                                ///< rows of the groups with one class only
};

/// @brief GAUC: the AUC of each group, weighted by the group's rows (the sum of their weights). A group that has only one class has no AUC and is left out;
/// the report says how many.
///
/// **Device.** see metric.hpp. **Cost.** 24 bytes a row; value() sorts a copy, O(n log n). Bit-identical for every order of rows and batches.
/// **Source.** Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017, Eq. 13, with impressions as weights.
class GroupedAuc {
 public:
  /// @brief Adds a batch.
  /// @param prediction [B] scores on any device
  /// @param label 0 or 1, with mask and weight
  /// @param group [B] integers: which rows are compared with each other
  /// @throws c10::ValueError as Auc::add; c10::TypeError unless group holds integers
  void add(const at::Tensor& prediction, const Label& label, const at::Tensor& group) {
    const detail::Column<int64_t> groups =
        detail::integer_column("htl::GroupedAuc", "groups", group, prediction.defined() && prediction.dim() == 1 ? prediction.size(0) : -1);
    std::vector<Row> batch;
    detail::for_each_observed("htl::GroupedAuc", prediction, label, [&](int64_t row, double score, double value, double weight) {
      detail::check_binary_label("htl::GroupedAuc", value, row);
      batch.push_back({groups[row], score + 0.0, value > 0.5 ? weight : -weight});
    });
    rows_.insert(rows_.end(), batch.begin(), batch.end());
  }
  /// @brief Adds what another accumulator has seen; groups of the same number are one group.
  void merge(const GroupedAuc& other) { rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end()); }
  /// @brief The weighted mean of the groups' AUC; NaN if no group has both classes.
  double value() const { return report().value; }
  /// @brief The value, and what was left out.
  GroupedAucReport report() const {
    std::vector<Row> sorted = rows_;
    std::sort(sorted.begin(), sorted.end());
    GroupedAucReport result;
    double sum = 0.0, total = 0.0;
    for (auto first = sorted.begin(); first != sorted.end();) {
      const auto last = std::find_if(first, sorted.end(), [&](const Row& row) { return row.group != first->group; });
      const detail::PairCount pairs = detail::count_pairs(first, last);
      if (pairs.defined()) {
        ++result.groups;
        result.rows += last - first;
        sum += (pairs.positive + pairs.negative) * pairs.auc();
        total += pairs.positive + pairs.negative;
      } else {
        ++result.groups_left_out;
        result.rows_left_out += last - first;
      }
      first = last;
    }
    if (total > 0.0) result.value = sum / total;
    return result;
  }

 private:
  struct Row {
    int64_t group;
    double score;
    double signed_weight;
    friend auto operator<=>(const Row&, const Row&) = default;
  };
  std::vector<Row> rows_;
};

}  // namespace htl
