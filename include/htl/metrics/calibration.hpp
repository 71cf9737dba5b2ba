// SPDX-License-Identifier: Apache-2.0
/// @file calibration.hpp
/// @brief Calibration: do events predicted at p happen p of the time? Normalised entropy, reliability bins, predicted over observed.
#pragma once

#include <htl/metrics/log_loss.hpp>

#include <algorithm>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How the rows are cut into reliability bins.
enum class Binning {
  equal_width,  ///< [0, 1] in equal intervals: easy to read, but rare events crowd the first
  equal_weight  ///< the sorted rows in equal shares of the weight; equal predictions are never split over two bins
};

/// @brief One bin of a reliability diagram.
struct ReliabilityBin {
  double lower = 0.0;                                           ///< the interval's lower end (equal_width), or the least prediction in it
  double upper = 0.0;                                           ///< the interval's upper end (equal_width), or the greatest prediction in it
  double weight = 0.0;                                          ///< Σ w; 0 in an empty bin of equal width
  double predicted = std::numeric_limits<double>::quiet_NaN();  ///< mean prediction; NaN in an empty bin
  double observed = std::numeric_limits<double>::quiet_NaN();   ///< share of events; NaN in an empty bin
};

/// @brief Calibration of a binary task.
///
/// **Device.** see metric.hpp. **Cost.** 16 bytes a row, each value sorts a copy, O(n log n). Bit-identical for every order of rows.
/// **Source.** normalised entropy: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, Eq. 1.
class Calibration {
 public:
  /// @brief Adds a batch.
  /// @param probability [B] on any device
  /// @param label 0 or 1, with mask and weight
  /// @throws c10::ValueError on a wrong shape, and naming the row on a probability outside [0, 1], a label other than 0 or 1, a bad weight
  void add(const at::Tensor& probability, const Label& label) {
    std::vector<detail::ScoredRow> batch;
    detail::for_each_observed("htl::Calibration", probability, label, [&](int64_t row, double p, double y, double weight) {
      detail::check_probability("htl::Calibration", p, row);
      detail::check_binary_label("htl::Calibration", y, row);
      batch.push_back({p + 0.0, y > 0.5 ? weight : -weight});
    });
    if (!batch.empty()) epsilon_ = std::max(epsilon_, detail::probability_resolution(probability));
    rows_.insert(rows_.end(), batch.begin(), batch.end());
  }
  /// @brief Adds what another accumulator has seen.
  void merge(const Calibration& other) {
    rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
    epsilon_ = std::max(epsilon_, other.epsilon_);
  }
  /// @brief The normalised entropy.
  double value() const { return normalized_entropy(); }
  /// @brief Log loss over the entropy of the base rate: 1 for the constant base rate, smaller is better. NaN unless both classes were seen.
  double normalized_entropy() const {
    const Totals t = totals();
    if (!(t.observed > 0.0 && t.observed < t.weight)) return std::numeric_limits<double>::quiet_NaN();
    const double rate = t.observed / t.weight;
    return t.loss / t.weight / (-rate * std::log(rate) - (1.0 - rate) * std::log1p(-rate));
  }
  /// @brief Σ w p / Σ w y: above 1 the model promises too much. NaN without an event.
  double ratio() const {
    const Totals t = totals();
    return t.observed > 0.0 ? t.predicted / t.observed : std::numeric_limits<double>::quiet_NaN();
  }
  /// @brief Mean prediction against the share of events, bin by bin.
  /// @param bins at least 1
  /// @param binning how rows are cut
  /// @return exactly `bins` of equal width, or at most `bins` of equal weight (none empty), in rising order
  /// @throws c10::ValueError if bins < 1
  std::vector<ReliabilityBin> reliability(int64_t bins = 10, Binning binning = Binning::equal_width) const;
  /// @brief Expected calibration error Σ_b W_b |predicted_b − observed_b| / Σ W; NaN without rows.
  double expected_calibration_error(int64_t bins = 10, Binning binning = Binning::equal_width) const {
    double error = 0.0, weight = 0.0;
    for (const ReliabilityBin& bin : reliability(bins, binning)) {
      if (bin.weight <= 0.0) continue;
      error += bin.weight * std::abs(bin.predicted - bin.observed);
      weight += bin.weight;
    }
    return weight > 0.0 ? error / weight : std::numeric_limits<double>::quiet_NaN();
  }

 private:
  struct Totals {
    double weight = 0.0, predicted = 0.0, observed = 0.0, loss = 0.0;
  };
  /// The rows in one order, whatever the order of arrival: sums are then bit-identical.
  std::vector<detail::ScoredRow> sorted() const {
    std::vector<detail::ScoredRow> rows = rows_;
    std::sort(rows.begin(), rows.end());
    return rows;
  }
  Totals totals() const {
    Totals t;
    for (const detail::ScoredRow& row : sorted()) {
      const double w = std::abs(row.signed_weight), y = row.signed_weight > 0.0 ? 1.0 : 0.0;
      t.weight += w;
      t.predicted += w * row.score;
      t.observed += w * y;
      t.loss += w * detail::cross_entropy(row.score, y, epsilon_);
    }
    return t;
  }
  std::vector<detail::ScoredRow> rows_;
  double epsilon_ = std::numeric_limits<double>::epsilon();
};

inline std::vector<ReliabilityBin> Calibration::reliability(int64_t bins, Binning binning) const {
  HTL_CHECK(bins >= 1, "htl::Calibration: expected at least 1 reliability bin, got ", bins);
  struct Sums {
    double weight = 0.0, predicted = 0.0, observed = 0.0, lower = 0.0, upper = 0.0;
  };
  std::vector<Sums> sums(static_cast<size_t>(bins));
  const double count = static_cast<double>(bins);
  const std::vector<detail::ScoredRow> rows = sorted();
  double total = 0.0, before = 0.0;
  for (const detail::ScoredRow& row : rows) total += std::abs(row.signed_weight);
  for (size_t first = 0; first < rows.size();) {
    size_t last = first;
    double weight = 0.0, observed = 0.0;
    for (; last < rows.size() && rows[last].score == rows[first].score; ++last) {
      weight += std::abs(rows[last].signed_weight);
      observed += std::max(rows[last].signed_weight, 0.0);
    }
    const double score = rows[first].score;
    const double place = binning == Binning::equal_width ? score : (before + 0.5 * weight) / total;  // a tie goes where its middle lies
    Sums& bin = sums[static_cast<size_t>(std::clamp(std::floor(place * count), 0.0, count - 1.0))];
    if (bin.weight == 0.0) bin.lower = score;
    bin.upper = score;
    bin.weight += weight;
    bin.predicted += weight * score;
    bin.observed += observed;
    before += weight;
    first = last;
  }
  std::vector<ReliabilityBin> result;
  for (size_t b = 0; b < sums.size(); ++b) {
    const Sums& s = sums[b];
    const bool equal_width = binning == Binning::equal_width;
    if (s.weight <= 0.0 && !equal_width) continue;
    ReliabilityBin bin;
    bin.lower = equal_width ? static_cast<double>(b) / count : s.lower;
    bin.upper = equal_width ? static_cast<double>(b + 1) / count : s.upper;
    bin.weight = s.weight;
    if (s.weight > 0.0) {
      bin.predicted = s.predicted / s.weight;
      bin.observed = s.observed / s.weight;
    }
    result.push_back(bin);
  }
  return result;
}

}  // namespace htl
