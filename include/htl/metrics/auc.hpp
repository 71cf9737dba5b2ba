// SPDX-License-Identifier: Apache-2.0
/// @file auc.hpp
/// @brief Auc: the area under the ROC curve, exact with ties and weights.
#pragma once

#include <htl/metrics/metric.hpp>

#include <algorithm>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief P(score of a positive > score of a negative) + ½ P(equal), over all weighted pairs: Σ w_i w_j ([s_i > s_j] + ½ [s_i = s_j]) / (W⁺ W⁻).
///
/// Scores may be logits or probabilities: only their order matters (but a probability in float32 ties logits above about 17).
/// **Device.** see metric.hpp. **Cost.** 16 bytes a row; value() sorts a copy, O(n log n). Bit-identical for every order of rows and batches.
class Auc {
 public:
  /// @brief Adds a batch.
  /// @param prediction [B] scores on any device
  /// @param label 0 or 1, with mask and weight; write `{values}` for plain labels
  /// @throws c10::ValueError on a wrong shape, and naming the row on a NaN or infinite score, a label other than 0 or 1, a bad weight
  void add(const at::Tensor& prediction, const Label& label) {
    std::vector<detail::ScoredRow> batch;
    detail::for_each_observed("htl::Auc", prediction, label, [&](int64_t row, double score, double value, double weight) {
      detail::check_binary_label("htl::Auc", value, row);
      batch.push_back({score + 0.0, value > 0.5 ? weight : -weight});  // + 0.0: −0 sorts as +0
    });
    rows_.insert(rows_.end(), batch.begin(), batch.end());
  }
  /// @brief Adds what another accumulator has seen (another thread, another rank).
  void merge(const Auc& other) { rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end()); }
  /// @brief The area in [0, 1]; NaN unless both classes were seen.
  double value() const {
    std::vector<detail::ScoredRow> sorted = rows_;
    std::sort(sorted.begin(), sorted.end());
    const detail::PairCount pairs = detail::count_pairs(sorted.begin(), sorted.end());
    return pairs.defined() ? pairs.auc() : std::numeric_limits<double>::quiet_NaN();
  }
  /// @brief How many observed rows of weight above 0 were added.
  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }

 private:
  std::vector<detail::ScoredRow> rows_;
};

}  // namespace htl
