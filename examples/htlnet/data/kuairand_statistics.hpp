// SPDX-License-Identifier: Apache-2.0
/// @file kuairand_statistics.hpp
/// @brief Target statistics of a KuaiRand log: what users, videos and their combinations have done in earlier rows.
#pragma once

#include <examples/htlnet/data/chunks.hpp>
#include <examples/htlnet/data/target_statistics.hpp>

#include <htl/task/check.hpp>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace htlnet {

/// @brief Which rows of the log a row's target statistics are made of.
enum class TargetRows {
  none,          ///< there are no target statistics
  earlier_rows,  ///< all strictly earlier ones: of a service that learns within the day
  earlier_days   ///< those of whole earlier days: of a service that is trained anew each night
};

/// @brief Their names, in order.
inline const std::vector<std::string> target_rows_names = {"none", "earlier_rows", "earlier_days"};

/// @brief A choice by its name.
/// @throws c10::ValueError naming the nearest name
inline TargetRows target_rows(std::string_view name) {
  for (size_t n = 0; n < target_rows_names.size(); ++n)
    if (target_rows_names[n] == name) return static_cast<TargetRows>(n);
  HTL_CHECK(false, "htlnet: expected none, earlier_rows or earlier_days, got \"", name, "\"; did you mean \"", htl::nearest(name, target_rows_names), "\"?");
}

namespace kuairand {

/// @brief A row of the log as its statistics see it. Codes ≤ 0 are none.
struct LogRow {
  int64_t time = 0;  ///< milliseconds since 1970
  int32_t user = 0, video = 0, author = 0, tag = 0, music = 0, tab = 0, hour = 0;
  float click = 0.0F, long_view = 0.0F, seconds = 0.0F;
  uint8_t part = 3;  ///< 0, 1, 2: training, validation, test; 3 = it is in none, and only others learn from it
};

/// @brief Keys: user, video, author, tag, music, user × tab, user × tag, video × tab, tab × hour. Of each the smoothed means of click, long view and
/// log(1 + seconds), and log(1 + n).
///
/// "Earlier" is by time_ms, also for days, which begin at midnight in Beijing: the log's own column `date` runs up to an hour behind its clock, and a row
/// of an earlier date may be a later one. Rows of other parts count like those of a row's own: a test row's statistics know validation rows, which are earlier.
class LogStatistics {
 public:
  /// @brief No row.
  LogStatistics(TargetRows rows, double strength) : by_day_(rows == TargetRows::earlier_days), strength_(strength) {}

  /// @brief The columns, in order: user.click, user.long_view, user.log_seconds, user.count, video.click, …
  static std::vector<std::string> names() {
    std::vector<std::string> result;
    for (const char* key : {"user", "video", "author", "tag", "music", "user_tab", "user_tag", "video_tab", "tab_hour"})
      for (const char* of : {".click", ".long_view", ".log_seconds", ".count"}) result.push_back(std::string(key) + of);
    return result;
  }
  /// @brief Takes a row; the order does not matter but among rows of the same time, whose sums it orders.
  void add(const LogRow& row) {
    rows_.push_back(row);
    ++counts_[row.part];
  }
  /// @brief The statistics of each part's rows [n, 36], in the order in which they were added.
  std::array<at::Tensor, 3> finish() {
    constexpr size_t keys = 9, targets = 3;
    TargetStatistics statistics(keys, targets, strength_);
    std::vector<size_t> order(rows_.size()), places(rows_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::array<size_t, 4> next{};
    for (size_t i = 0; i < rows_.size(); ++i) places[i] = next[rows_[i].part]++;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rows_[a].time < rows_[b].time; });
    std::array<at::Tensor, 3> values;
    for (size_t s = 0; s < 3; ++s) values[s] = at::empty({static_cast<int64_t>(counts_[s]), static_cast<int64_t>(statistics.width())}, at::kFloat);
    std::vector<float> to(statistics.width());
    for (const size_t i : order) {
      const LogRow row = rows_[i];
      const std::array<int64_t, keys> key = {one(row.user),           one(row.video),          one(row.author),          one(row.tag),           one(row.music),
                                             both(row.user, row.tab), both(row.user, row.tag), both(row.video, row.tab), both(row.tab, row.hour)};
      const std::array<float, targets> target = {row.click, row.long_view, std::log1p(row.seconds)};
      statistics.next(by_day_ ? (row.time + beijing) / day : row.time, key, target, to);
      if (row.part > 2) continue;
      for (size_t k = 0; k < keys; ++k) to[k * (targets + 1) + targets] = std::log1p(to[k * (targets + 1) + targets]);
      std::copy(to.begin(), to.end(), values[row.part].mutable_data_ptr<float>() + places[i] * to.size());
    }
    return values;
  }

 private:
  static constexpr int64_t day = 86'400'000, beijing = 8 * 3'600'000;  // milliseconds
  static int64_t one(int32_t code) { return code > 0 ? code : -1; }
  static int64_t both(int32_t a, int32_t b) { return a > 0 && b > 0 ? int64_t{a} << 32 | b : -1; }

  bool by_day_;
  double strength_;
  Chunks<LogRow> rows_;
  std::array<size_t, 4> counts_{};
};

}  // namespace kuairand
}  // namespace htlnet
