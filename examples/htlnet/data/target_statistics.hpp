// SPDX-License-Identifier: Apache-2.0
/// @file target_statistics.hpp
/// @brief TargetStatistics: smoothed means of targets by key, of strictly earlier rows only.
#pragma once

#include <htl/task/check.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <unordered_map>
#include <vector>

namespace htlnet {

/// @brief What has been seen of each key before a row: for every target the mean, smoothed towards that of all earlier rows, and how many rows there were.
///
/// A stream: rows come in the order of time, and each one is given its statistics before its own targets count. Rows of the same time don't see each
/// other either; with days for times a row sees whole earlier days only. So nothing that a row is told depends on its own targets or on those of a row
/// that is not earlier, whatever they are.
///
/// With n earlier rows of a key, whose targets sum to s, and the mean g of all earlier rows: (s + strength·g) / (n + strength). Without any earlier row, or
/// for n = 0 with strength 0, the mean is NaN: missing. A negative key is none: its means are NaN and so is its count. Sums are in float64, in the order of
/// rows.
///
/// **Source.** Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", SIGKDD Explorations 3(1), 2001: the m-probability
/// estimate, a key's mean with the weight n / (n + m). There the means are of all training rows, the row itself among them; here of earlier ones.
class TargetStatistics {
 public:
  /// @brief No row seen.
  /// @param keys how many keys a row has; each is counted on its own
  /// @param targets how many targets a row has
  /// @param strength how many rows of the global mean each key's mean begins with
  /// @throws c10::ValueError for a strength that is negative or not finite
  TargetStatistics(size_t keys, size_t targets, double strength)
      : targets_(targets), strength_(strength), seen_(keys), totals_(targets + 1, 0.0), now_(std::numeric_limits<int64_t>::min()) {
    HTL_CHECK(std::isfinite(strength) && strength >= 0.0, "htlnet::TargetStatistics: expected a finite strength ≥ 0, got ", strength);
  }

  /// @brief How many numbers a row is given: for each key the means, then the count.
  size_t width() const { return seen_.size() * (targets_ + 1); }

  /// @brief The next row: writes what earlier rows tell, then keeps its targets for later ones.
  /// @param time not before that of the row before
  /// @param keys one each; negative = none
  /// @param targets one each; nothing = they are not known, and the row counts nowhere
  /// @param to width() numbers
  /// @throws c10::ValueError for another number of keys or targets, or a time that goes back
  void next(int64_t time, std::span<const int64_t> keys, std::span<const float> targets, std::span<float> to) {
    HTL_CHECK(keys.size() == seen_.size() && to.size() == width() && (targets.empty() || targets.size() == targets_), "htlnet::TargetStatistics: expected ",
              seen_.size(), " keys, ", targets_, " targets or none, and room for ", width(), " numbers, got ", keys.size(), ", ", targets.size(), " and ",
              to.size());
    HTL_CHECK(time >= now_, "htlnet::TargetStatistics: expected rows in the order of time, got time ", time, " after ", now_);
    if (time > now_) count_waiting();
    now_ = time;
    for (size_t k = 0; k < keys.size(); ++k) write(k, keys[k], to.data() + k * (targets_ + 1));
    if (targets.empty()) return;
    waiting_keys_.insert(waiting_keys_.end(), keys.begin(), keys.end());
    waiting_targets_.insert(waiting_targets_.end(), targets.begin(), targets.end());
    ++waiting_;
  }

 private:
  using Sums = std::vector<double>;  // of each target, then the number of rows

  void write(size_t k, int64_t key, float* to) const {
    const auto found = key < 0 ? seen_[k].end() : seen_[k].find(key);
    const bool is_known = found != seen_[k].end();
    const double count = is_known ? found->second[targets_] : 0.0, all = totals_[targets_];
    const bool has_mean = key >= 0 && all > 0.0 && count + strength_ > 0.0;
    for (size_t t = 0; t < targets_; ++t) {
      const double sum = (is_known ? found->second[t] : 0.0) + (has_mean ? strength_ * totals_[t] / all : 0.0);
      to[t] = has_mean ? static_cast<float>(sum / (count + strength_)) : std::numeric_limits<float>::quiet_NaN();
    }
    to[targets_] = key < 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(count);
  }

  /// The rows of the time that has passed enter the sums.
  void count_waiting() {
    for (size_t row = 0; row < waiting_; ++row) {
      const float* const targets = waiting_targets_.data() + row * targets_;
      const auto add = [&](Sums& sums) {
        for (size_t t = 0; t < targets_; ++t) sums[t] += static_cast<double>(targets[t]);
        sums[targets_] += 1.0;
      };
      add(totals_);
      for (size_t k = 0; k < seen_.size(); ++k)
        if (const int64_t key = waiting_keys_[row * seen_.size() + k]; key >= 0) add(seen_[k].try_emplace(key, targets_ + 1, 0.0).first->second);
    }
    waiting_ = 0;
    waiting_keys_.clear();
    waiting_targets_.clear();
  }

  size_t targets_;
  double strength_;
  std::vector<std::unordered_map<int64_t, Sums>> seen_;  // by key
  Sums totals_;
  int64_t now_;
  std::vector<int64_t> waiting_keys_;  // of rows that have the time now_
  std::vector<float> waiting_targets_;
  size_t waiting_ = 0;
};

}  // namespace htlnet
