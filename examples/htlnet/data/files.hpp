// SPDX-License-Identifier: Apache-2.0
/// @file files.hpp
/// @brief Which files of a directory hold data, and which days of them count.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace htl::example {

/// @brief All files NAME.csv and NAME.csv.gz of a directory whose NAME starts with a prefix, in order of NAME; where both are there, the plain one.
/// @throws c10::ValueError if the directory can't be read or holds none
std::vector<std::string> csv_files(const std::string& directory, const std::string& prefix = "");

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
int weekday_of(int64_t day);

}  // namespace htl::example
