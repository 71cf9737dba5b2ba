// SPDX-License-Identifier: Apache-2.0
/// @file number_columns.hpp
/// @brief NumberColumns: numbers that a reader has derived, as bucketised fields, as numeric features, or as both.
#pragma once

#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/id_writer.hpp>

#include <htl/data/field_counter.hpp>

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief How derived numbers enter the model.
enum class NumbersAs {
  buckets,  ///< fields: the id of a quantile bucket of the training rows
  numbers,  ///< numeric features; a missing one is the training mean
  both      ///< fields and numeric features
};

/// @brief Their names, in order.
inline const std::vector<std::string> numbers_as_names = {"buckets", "numbers", "both"};

/// @brief A choice by its name.
/// @throws c10::ValueError naming the nearest name
inline NumbersAs numbers_as(std::string_view name) {
  for (size_t n = 0; n < numbers_as_names.size(); ++n)
    if (numbers_as_names[n] == name) return static_cast<NumbersAs>(n);
  HTL_CHECK(false, "htlnet: expected buckets, numbers or both, got \"", name, "\"; did you mean \"", htl::nearest(name, numbers_as_names), "\"?");
}

/// @brief Columns of numbers [n, C] in float32, NaN where one is missing.
class NumberColumns {
 public:
  /// @brief Columns by name.
  /// @param names their names, of fields and of numeric features alike
  /// @param as how they enter
  /// @param buckets of each, at most
  /// @param statistics a map whose edges and stand-ins for missing numbers are kept, by name; null = none
  NumberColumns(std::vector<std::string> names, NumbersAs as, int64_t buckets, const htl::FeatureMap* statistics)
      : names_(std::move(names)), as_(as), statistics_(statistics) {
    for (const std::string& name : names_) {
      htl::FieldPlan plan{.name = name, .kind = htl::FieldKind::bucketised, .buckets = buckets};
      keep_edges(plan, statistics);
      if (as_ != NumbersAs::numbers) counters_.emplace_back(std::move(plan));
    }
  }
  /// @brief How many fields they are.
  size_t fields() const { return counters_.size(); }

  /// @brief Fits to training rows, and appends the fields and the numeric features.
  void fit(const at::Tensor& training, std::vector<htl::FeatureMap::Field>& fields, std::vector<htl::FeatureMap::Numeric>& numeric) {
    const float* const values = training.const_data_ptr<float>();
    const size_t rows = static_cast<size_t>(training.size(0)), width = names_.size();
    for (size_t c = 0; c < counters_.size(); ++c) {  // the numbers of one field are held at a time
      for (size_t row = 0; row < rows; ++row) counters_[c].count(htl::FieldCounter::encode_number(static_cast<double>(values[row * width + c])));
      fields.push_back(counters_[c].fit());
    }
    for (size_t c = 0; c < width && as_ != NumbersAs::buckets; ++c) {
      double sum = 0.0, known = 0.0;
      for (size_t row = 0; row < rows; ++row) {
        const double value = static_cast<double>(values[row * width + c]);
        if (std::isnan(value)) continue;
        sum += value;
        known += 1.0;
      }
      htl::FeatureMap::Numeric column{names_[c], known > 0.0 ? sum / known : 0.0};
      for (size_t n = 0; statistics_ && n < statistics_->numeric().size(); ++n)
        if (statistics_->numeric()[n].name == column.name) column = statistics_->numeric()[n];
      missing_.push_back(static_cast<float>(column.missing));
      numeric.push_back(std::move(column));
    }
  }
  /// @brief Instead of fit(): takes edges and stand-ins from a map that was fitted before.
  /// @throws c10::ValueError if its numeric features are others; c10::IndexError if it lacks a field
  void adopt(const htl::FeatureMap& map) {
    for (htl::FieldCounter& counter : counters_) counter.adopt(map);
    std::vector<std::string> known;
    for (const htl::FeatureMap::Numeric& column : map.numeric()) {
      known.push_back(column.name);
      missing_.push_back(static_cast<float>(column.missing));
    }
    const std::vector<std::string> wanted = as_ == NumbersAs::buckets ? std::vector<std::string>() : names_;
    HTL_CHECK(known == wanted, "htlnet: expected a feature map with the numeric features ", htl::quoted(wanted), ", got ", htl::quoted(known),
              "; read the data as in training");
  }

  /// @brief Writes the ids of one row's fields.
  void put(const float* row, IdWriter& to) const {
    for (size_t c = 0; c < counters_.size(); ++c) to.one(counters_[c].id(htl::FieldCounter::encode_number(static_cast<double>(row[c]))));
  }
  /// @brief The numeric features of rows: their numbers, with the stand-ins for missing ones; undefined where they enter as buckets only.
  at::Tensor numeric(const at::Tensor& values) const {
    if (as_ == NumbersAs::buckets) return {};
    at::Tensor result = values.clone();
    float* const numbers = result.mutable_data_ptr<float>();
    for (int64_t i = 0; i < result.numel(); ++i)
      if (std::isnan(numbers[i])) numbers[i] = missing_[static_cast<size_t>(i) % names_.size()];
    return result;
  }

 private:
  std::vector<std::string> names_;
  NumbersAs as_;
  const htl::FeatureMap* statistics_;
  std::vector<htl::FieldCounter> counters_;
  std::vector<float> missing_;
};

}  // namespace htlnet
