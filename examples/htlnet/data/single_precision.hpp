// SPDX-License-Identifier: Apache-2.0
/// @file single_precision.hpp
/// @brief Numbers of a row as floats; what would become infinite there is refused where it is read.
#pragma once

#include <htl/data/csv.hpp>

#include <cmath>
#include <limits>

namespace htlnet {

/// @brief A number that was read from a field, as a float.
/// @throws c10::ValueError naming file, line and column if it is beyond single precision
inline float single_precision(const htl::CsvReader& reader, size_t column, double number) {
  if (std::abs(number) > static_cast<double>(std::numeric_limits<float>::max())) reader.fail(column, "a number within single precision (up to 3.4e38)");
  return static_cast<float>(number);
}

/// @brief The number in a field, as a float; NaN where its text stands for none.
/// @throws c10::ValueError naming file, line and column if it is another text, or beyond single precision
inline float single_or_missing(const htl::CsvReader& reader, size_t column) {
  double number = std::numeric_limits<double>::quiet_NaN();
  if (!reader.number_or_other(column, number) && !htl::is_missing(reader[column])) reader.fail(column, "a number or nothing");
  return single_precision(reader, column, number);
}

}  // namespace htlnet
