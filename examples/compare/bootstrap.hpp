// SPDX-License-Identifier: Apache-2.0
/// @file bootstrap.hpp
/// @brief The paired bootstrap over test rows: how far a difference between two models depends on which rows were tested.
#pragma once

#include "statistics.hpp"

#include <examples/htlnet/data/counter_random.hpp>

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace compare {

/// @brief A metric of one model's test rows, prepared so that a resampled value is one pass over them: nothing is sorted again.
class ResampledMetric {
 public:
  /// @brief One row: its position in the test set, the label's weight, and what the metric needs.
  struct Row {
    int32_t row = 0;
    double weight = 1.0;
    double prediction = 0.0;
    double label = 0.0;
  };

  /// @brief The area under the ROC curve, ties ½.
  static ResampledMetric auc(std::vector<Row> rows) {
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.prediction != b.prediction ? a.prediction < b.prediction : a.row < b.row; });
    ResampledMetric metric(Kind::auc, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      metric.a_.push_back(rows[i].label > 0.5 ? 1.0F : 0.0F);
      metric.ends_.push_back(i + 1 == rows.size() || rows[i + 1].prediction != rows[i].prediction);
    }
    return metric;
  }
  /// @brief RMSE over the standard deviation of the labels.
  static ResampledMetric nrmse(const std::vector<Row>& rows) {
    ResampledMetric metric(Kind::nrmse, rows);
    double sum = 0.0;
    for (const Row& row : rows) sum += row.label;
    const double mean = rows.empty() ? 0.0 : sum / static_cast<double>(rows.size());  // a shift, so that squares lose no digits
    for (const Row& row : rows) {
      metric.a_.push_back(static_cast<float>((row.prediction - row.label) * (row.prediction - row.label)));
      metric.b_.push_back(static_cast<float>(row.label - mean));
    }
    return metric;
  }
  /// @brief Spearman's correlation, of average ranks within the resampled rows: as htl::Spearman has it of rows with these weights.
  static ResampledMetric spearman(std::vector<Row> rows) {
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.label != b.label ? a.label < b.label : a.row < b.row; });
    ResampledMetric metric(Kind::spearman, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      metric.by_prediction_.push_back(static_cast<int32_t>(i));
      metric.ends_.push_back(i + 1 == rows.size() || rows[i + 1].label != rows[i].label);
    }
    const auto prediction = [&](int32_t i) { return rows[static_cast<size_t>(i)].prediction; };
    std::vector<int32_t>& order = metric.by_prediction_;
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return prediction(a) != prediction(b) ? prediction(a) < prediction(b) : a < b; });
    for (size_t i = 0; i < order.size(); ++i) metric.prediction_ends_.push_back(i + 1 == order.size() || prediction(order[i + 1]) != prediction(order[i]));
    return metric;
  }
  /// @brief The mean of the predictions, which are then losses.
  static ResampledMetric mean(const std::vector<Row>& rows) {
    ResampledMetric metric(Kind::mean, rows);
    for (const Row& row : rows) metric.a_.push_back(static_cast<float>(row.prediction));
    return metric;
  }

  /// @brief The metric with each row as often as it was drawn; NaN where it is not defined.
  /// @param counts for each row of the test set
  double operator()(std::span<const uint8_t> counts) const {
    if (kind_ == Kind::auc) return resampled_auc(counts);
    if (kind_ == Kind::spearman) return resampled_spearman(counts);
    double weight = 0.0, a = 0.0, b = 0.0, bb = 0.0;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const double w = weight_of(i, counts);
      weight += w;
      a += w * a_[i];
      if (kind_ != Kind::nrmse) continue;
      b += w * b_[i];
      bb += w * b_[i] * b_[i];
    }
    if (!(weight > 0.0)) return undefined;
    if (kind_ == Kind::mean) return a / weight;
    const double variance = bb / weight - (b / weight) * (b / weight);
    return variance > 0.0 ? std::sqrt(a / weight / variance) : undefined;
  }

 private:
  enum class Kind { auc, nrmse, spearman, mean };
  ResampledMetric(Kind kind, const std::vector<Row>& rows) : kind_(kind) {
    const bool weighted = std::any_of(rows.begin(), rows.end(), [](const Row& row) { return row.weight != 1.0; });
    for (const Row& row : rows) {
      rows_.push_back(row.row);
      if (weighted) weights_.push_back(static_cast<float>(row.weight));
    }
  }
  double weight_of(size_t i, std::span<const uint8_t> counts) const {
    const double count = counts[static_cast<size_t>(rows_[i])];
    return weights_.empty() ? count : count * weights_[i];
  }
  double resampled_auc(std::span<const uint8_t> counts) const {
    double positive = 0.0, negative = 0.0, ordered = 0.0, tied_positive = 0.0, tied_negative = 0.0;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const double w = weight_of(i, counts), p = w * a_[i];
      tied_positive += p;
      tied_negative += w - p;
      if (!ends_[i]) continue;
      ordered += tied_positive * (negative + 0.5 * tied_negative);
      positive += tied_positive;
      negative += tied_negative;
      tied_positive = tied_negative = 0.0;
    }
    return positive > 0.0 && negative > 0.0 ? ordered / (positive * negative) : undefined;
  }

  /// Calls visit(place, weight, rank) in an order of places; rows of one run share the mean of their ranks.
  template <class Order, class Visit>
  void ranked(std::span<const uint8_t> counts, const std::vector<bool>& ends, const Order& order, const Visit& visit) const {
    double below = 0.0, weight = 0.0;
    for (size_t first = 0, i = 0; i < ends.size(); ++i) {
      weight += weight_of(order(i), counts);
      if (!ends[i]) continue;
      for (; first <= i; ++first) visit(order(first), weight_of(order(first), counts), below + 0.5 * weight);
      below += weight;
      weight = 0.0;
    }
  }
  double resampled_spearman(std::span<const uint8_t> counts) const {
    std::vector<double> x(rows_.size());
    double total = 0.0, xx = 0.0, yy = 0.0, xy = 0.0;
    const auto in_order = [&](size_t i) { return static_cast<size_t>(by_prediction_[i]); };
    ranked(counts, prediction_ends_, in_order, [&](size_t place, double weight, double rank) {
      x[place] = rank;
      total += weight;
    });
    ranked(
        counts, ends_, [](size_t i) { return i; },
        [&](size_t place, double weight, double rank) {
          const double dx = x[place] - 0.5 * total, dy = rank - 0.5 * total;  // average ranks always have the mean total / 2
          xx += weight * dx * dx;
          yy += weight * dy * dy;
          xy += weight * dx * dy;
        });
    const double nothing = 1e-24 * total * total * total;  // sums in two orders round differently: what does not vary is not exactly 0
    return xx > nothing && yy > nothing ? std::clamp(xy / (std::sqrt(xx) * std::sqrt(yy)), -1.0, 1.0) : undefined;
  }

  Kind kind_;
  std::vector<int32_t> rows_;
  std::vector<float> weights_, a_, b_;  // a: positive, squared error or loss; b: label less its mean
  std::vector<bool> ends_;              // of a run of equal predictions; of spearman, whose rows are in the order of labels, of equal labels
  std::vector<int32_t> by_prediction_;  // of spearman: places in the order of predictions
  std::vector<bool> prediction_ends_;   // of a run of equal predictions in that order
};

/// @brief How often each row is drawn in a replicate: its unit's draw from Poisson(1), the same in every model.
/// @param seed,replicate which replicate
/// @param unit_of_row rows of one unit (a user) are drawn together
/// @param units how many units there are
inline std::vector<uint8_t> drawn_rows(uint64_t seed, uint64_t replicate, const std::vector<int32_t>& unit_of_row, int64_t units) {
  static const std::array<double, 16> below = [] {  // P(Poisson(1) ≤ k)
    std::array<double, 16> sums{};
    double term = std::exp(-1.0), sum = 0.0;
    for (size_t k = 0; k < sums.size(); ++k) {
      sums[k] = sum += term;
      term /= static_cast<double>(k + 1);
    }
    return sums;
  }();
  std::vector<uint8_t> of_unit(static_cast<size_t>(units)), counts;
  htlnet::CounterRandom random(seed, 0, replicate);
  for (uint8_t& count : of_unit) {
    const double uniform = random.uniform();
    while (count < below.size() && uniform >= below[count]) ++count;
  }
  counts.reserve(unit_of_row.size());
  for (const int32_t unit : unit_of_row) counts.push_back(of_unit[static_cast<size_t>(unit)]);
  return counts;
}

/// @brief A metric of several cells in every replicate.
/// @returns [cell][replicate]; parallel over the replicates, the same for any number of threads
inline std::vector<std::vector<double>> resample(const std::vector<ResampledMetric>& cells, const std::vector<int32_t>& unit_of_row, int64_t units,
                                                 int64_t replicates, uint64_t seed) {
  std::vector<std::vector<double>> values(cells.size(), std::vector<double>(static_cast<size_t>(replicates), undefined));
  at::parallel_for(0, replicates, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const std::vector<uint8_t> counts = drawn_rows(seed, static_cast<uint64_t>(r), unit_of_row, units);
      for (size_t c = 0; c < cells.size(); ++c) values[c][static_cast<size_t>(r)] = cells[c](counts);
    }
  });
  return values;
}

/// @brief Where a difference lies.
struct Interval {
  double low = undefined, high = undefined;  ///< 95 % of the replicates' differences
  double p = undefined;                      ///< two-sided: twice the smaller share of differences on one side of 0, with one replicate more
};

/// @brief In every replicate the mean of several cells' values: a kind's over its seeds.
inline std::vector<double> mean_of(const std::vector<const std::vector<double>*>& cells) {
  std::vector<double> means(cells.empty() ? 0 : cells.front()->size(), 0.0);
  for (const std::vector<double>* const cell : cells)
    for (size_t r = 0; r < means.size(); ++r) means[r] += (*cell)[r] / static_cast<double>(cells.size());
  return means;
}

/// @brief The percentile interval of a − b over the replicates in which both are defined; undefined for fewer than 20.
inline Interval interval_of(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> differences;
  for (size_t r = 0; r < a.size(); ++r)
    if (std::isfinite(a[r] - b[r])) differences.push_back(a[r] - b[r]);
  if (differences.size() < 20) return {};
  std::sort(differences.begin(), differences.end());
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(differences.size() - 1);
    const auto before = static_cast<size_t>(at);
    const size_t after = std::min(before + 1, differences.size() - 1);
    return differences[before] + (at - static_cast<double>(before)) * (differences[after] - differences[before]);
  };
  const auto share = [&](auto&& counts) {
    return (1.0 + static_cast<double>(std::count_if(differences.begin(), differences.end(), counts))) / (1.0 + static_cast<double>(differences.size()));
  };
  return {quantile(0.025), quantile(0.975), std::min(1.0, 2.0 * std::min(share([](double d) { return d <= 0.0; }), share([](double d) { return d >= 0.0; })))};
}

}  // namespace compare
