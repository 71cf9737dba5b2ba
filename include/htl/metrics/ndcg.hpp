// SPDX-License-Identifier: Apache-2.0
/// @file ndcg.hpp
/// @brief Ndcg: how much of what a group could get stands at the top of its list.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices of Ndcg.
struct NdcgOptions {
  int64_t top = 0;           ///< positions that count; 0 = all
  bool exponential = false;  ///< whether a label y gains 2^y − 1, as for grades, or y itself, as for seconds and money
};

/// @brief The result of an Ndcg.
struct NdcgReport {
  double value = std::numeric_limits<double>::quiet_NaN();  ///< the mean over the groups that entered; NaN where there is none
  int64_t groups = 0;                                       ///< groups that entered
  int64_t groups_left_out = 0;                              ///< groups in which nothing can be gained, or of one row
};

/// @brief Normalised discounted cumulative gain: the mean over groups (users, requests) of DCG by the score over DCG by the label itself.
///
/// DCG = Σ_i gain_i / log₂(1 + i) over the positions i = 1 … top of the group's rows by falling score. Rows of one score share their positions: each gets the
/// mean gain of all, so that the order of rows does not matter. A group without any gain is left out, and so is one of a single row, which has no order
/// and would count as perfect. Labels ≥ 0; weights are 0 or 1, since a position has no
/// parts.
///
/// **Device.** see metric.hpp. **Cost.** 24 bytes a row; value() sorts a copy, O(n log n). Bit-identical for every order of rows and batches.
/// **Source.** Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002; ties: McSherry and Najork, ECIR 2008.
class Ndcg {
 public:
  /// @brief With positions and gain.
  /// @throws c10::ValueError if top < 0
  explicit Ndcg(NdcgOptions options = {}) : options_(options) {
    HTL_CHECK(options.top >= 0, "htl::Ndcg: expected top ≥ 1, or 0 for all positions, got ", options.top);
  }
  /// @brief Adds a batch.
  /// @param score [B] on any device
  /// @param label [B] ≥ 0, with mask
  /// @param group [B] integers: which rows are one list
  /// @throws c10::ValueError on wrong shapes, labels below 0 or whose gain is not finite, weights other than 0 and 1; c10::TypeError unless group holds
  /// integers
  void add(const at::Tensor& score, const Label& label, const at::Tensor& group) {
    const detail::Column<int64_t> groups = detail::integer_column("htl::Ndcg", "groups", group, score.defined() && score.dim() == 1 ? score.size(0) : -1);
    std::vector<Row> batch;
    detail::for_each_observed("htl::Ndcg", score, label, [&](int64_t row, double value, double y, double weight) {
      HTL_CHECK(weight == 1.0, "htl::Ndcg: expected weights 0 or 1, got ", weight, " in row ", row, " of the batch");
      const double gain = options_.exponential ? std::exp2(y) - 1.0 : y;
      HTL_CHECK(y >= 0.0 && std::isfinite(gain), "htl::Ndcg: expected labels ≥ 0 of finite gain, got ", y, " in row ", row, " of the batch");
      batch.push_back({groups[row], value + 0.0, gain});
    });
    rows_.insert(rows_.end(), batch.begin(), batch.end());
  }
  /// @brief Adds what another accumulator has seen; groups of the same number are one group.
  void merge(const Ndcg& other) { rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end()); }
  /// @brief The mean over groups; NaN if nothing can be gained in any.
  double value() const { return report().value; }
  /// @brief The value, and how many groups entered.
  NdcgReport report() const {
    std::vector<Row> sorted = rows_;
    std::sort(sorted.begin(), sorted.end());
    NdcgReport result;
    double sum = 0.0;
    for (auto first = sorted.begin(); first != sorted.end();) {
      const auto last = std::find_if(first, sorted.end(), [&](const Row& row) { return row.group != first->group; });
      std::vector<Row> ideal(first, last);
      for (Row& row : ideal) row.score = row.gain;
      std::sort(ideal.begin(), ideal.end());
      const double best = discounted(ideal.rbegin(), ideal.rend());
      if (best > 0.0 && last - first > 1) {
        ++result.groups;
        sum += discounted(std::make_reverse_iterator(last), std::make_reverse_iterator(first)) / best;
      } else {
        ++result.groups_left_out;
      }
      first = last;
    }
    if (result.groups > 0) result.value = sum / static_cast<double>(result.groups);
    return result;
  }

 private:
  struct Row {
    int64_t group;
    double score;
    double gain;
    friend auto operator<=>(const Row&, const Row&) = default;
  };
  /// The DCG of rows by falling score.
  template <class Iterator>
  double discounted(Iterator row, Iterator end) const {
    double total = 0.0;
    int64_t position = 0;
    while (row != end && (options_.top == 0 || position < options_.top)) {
      const double score = row->score;
      double gain = 0.0, discount = 0.0;
      int64_t tied = 0;
      for (; row != end && row->score == score; ++row, ++position, ++tied) {
        gain += row->gain;
        if (options_.top == 0 || position < options_.top) discount += 1.0 / std::log2(static_cast<double>(position) + 2.0);
      }
      total += gain / static_cast<double>(tied) * discount;
    }
    return total;
  }

  NdcgOptions options_;
  std::vector<Row> rows_;
};

}  // namespace htl
