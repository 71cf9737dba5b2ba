// SPDX-License-Identifier: Apache-2.0
/// @file files.hpp
/// @brief Which files of a directory hold data, and which days of them count.
#pragma once

#include <htl/task/check.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace htlnet {

/// @brief All files NAME.csv and NAME.csv.gz of a directory whose NAME starts with a prefix, in order of NAME; where both are there, the plain one.
/// @throws c10::ValueError if the directory can't be read or holds none
inline std::vector<std::string> csv_files(const std::string& directory, const std::string& prefix = "");

/// @brief Days from first to last, as numbers YYYYMMDD.
struct DateRange {
  int64_t first = 0;  ///< the first day
  int64_t last = 0;   ///< the last day, included
  /// @brief Whether a day is in it.
  bool contains(int64_t day) const { return day >= first && day <= last; }
  /// @brief Reads "YYYY-MM-DD" or "YYYY-MM-DD:YYYY-MM-DD".
  /// @throws c10::ValueError for text of another form, a day that isn't in the calendar, or a last day before the first
  static DateRange parse(const std::string& text);
};

/// @brief The day of the week of a day YYYYMMDD: 0 = Sunday … 6 = Saturday; −1 if it isn't in the calendar.
inline int weekday_of(int64_t day);

inline std::vector<std::string> csv_files(const std::string& directory, const std::string& prefix) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::map<std::string, std::string> found;  // name without extensions → path
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    const bool compressed = name.ends_with(".csv.gz");
    if (!compressed && !name.ends_with(".csv")) continue;
    name.resize(name.size() - (compressed ? 7 : 4));
    if (!compressed || !found.contains(name)) found[name] = entry->path().string();
  }
  HTL_CHECK(!error, "htlnet: can't read the directory \"", directory, "\": ", error.message());
  HTL_CHECK(!found.empty(), "htlnet: expected a file ", prefix, "*.csv or ", prefix, "*.csv.gz in \"", directory, "\", found none");
  std::vector<std::string> paths;
  for (const auto& [name, path] : found) paths.push_back(path);
  return paths;
}

namespace detail {

inline std::chrono::year_month_day calendar_day(int64_t day) {
  return {std::chrono::year(static_cast<int>(day / 10000)), std::chrono::month(static_cast<unsigned>(day / 100 % 100)),
          std::chrono::day(static_cast<unsigned>(day % 100))};
}

inline int64_t parse_day(std::string_view text, const std::string& whole) {
  int64_t day = 0;
  bool fits = text.size() == 10;
  for (size_t i = 0; fits && i < text.size(); ++i) {
    if (i == 4 || i == 7) {
      fits = text[i] == '-';
    } else {
      fits = text[i] >= '0' && text[i] <= '9';
      day = day * 10 + (text[i] - '0');
    }
  }
  HTL_CHECK(fits, "htlnet: expected dates YYYY-MM-DD or YYYY-MM-DD:YYYY-MM-DD, got \"", whole, "\"");
  HTL_CHECK(calendar_day(day).ok(), "htlnet: the day ", text, " in \"", whole, "\" isn't in the calendar");
  return day;
}

}  // namespace detail

inline DateRange DateRange::parse(const std::string& text) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string_view view = text;
  DateRange range;
  range.first = detail::parse_day(view.substr(0, colon), text);
  range.last = colon == text.size() ? range.first : detail::parse_day(view.substr(colon + 1), text);
  HTL_CHECK(range.first <= range.last, "htlnet: the dates \"", text, "\" end before they begin");
  return range;
}

inline int weekday_of(int64_t day) {
  if (day < 0 || day > 99991231 || !detail::calendar_day(day).ok()) return -1;
  return static_cast<int>(std::chrono::weekday(std::chrono::sys_days(detail::calendar_day(day))).c_encoding());
}

}  // namespace htlnet
