// SPDX-License-Identifier: Apache-2.0
/// @file field_counter.hpp
/// @brief FieldCounter: what training rows hold in one field, from which its vocabulary or bucket edges are fitted.
#pragma once

#include <htl/data/feature_map.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What is decided about a field before any row is seen.
struct FieldPlan {
  std::string name;                               ///< the field's name
  FieldKind kind = FieldKind::categorical;        ///< what it becomes
  char separator = '\0';                          ///< of a multi-valued field
  int64_t min_count = 1;                          ///< a text seen less often in training shares id 0
  int64_t buckets = 32;                           ///< of a bucketised field: at most so many, of equal mass …
  std::optional<std::vector<double>> edges = {};  ///< … unless its edges are given
};

/// @brief Sorts finite numbers, −0 before 0: three counting passes over the bits, several times faster than comparing.
inline void sort_numbers(std::vector<float>& values) {
  constexpr int bits = 11;
  std::vector<uint32_t> keys(values.size()), other(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t pattern = std::bit_cast<uint32_t>(values[i]);
    keys[i] = pattern ^ ((pattern >> 31) != 0 ? ~uint32_t{0} : uint32_t{1} << 31);  // rises with the number
  }
  for (int shift = 0; shift < 32; shift += bits) {
    const auto digit = [&](uint32_t key) { return (key >> shift) & ((1u << bits) - 1); };
    std::vector<size_t> place((size_t{1} << bits) + 1, 0);
    for (const uint32_t key : keys) ++place[digit(key) + 1];
    std::partial_sum(place.begin(), place.end(), place.begin());
    for (const uint32_t key : keys) other[place[digit(key)]++] = key;
    keys.swap(other);
  }
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::bit_cast<float>(keys[i] ^ ((keys[i] >> 31) != 0 ? uint32_t{1} << 31 : ~uint32_t{0}));
}

/// @brief Edges that cut numbers into at most `buckets` parts of about equal mass.
///
/// Edge k is the first number in rising order with more than k/buckets of the mass at or below it. Edges rise strictly, and none is the least number
/// (the bucket before it would stay empty).
/// @param values finite numbers; sorted in place where `times` is empty
/// @param times how often each of them occurs; empty = once
/// @param buckets at least 1
inline std::vector<double> quantile_edges(std::vector<float>& values, const std::vector<int64_t>& times, int64_t buckets) {
  HTL_CHECK(buckets >= 1, "htl::quantile_edges: expected at least one bucket, got ", buckets);
  HTL_CHECK(times.empty() || times.size() == values.size(), "htl::quantile_edges: expected ", values.size(), " counts, one a number, got ", times.size());
  std::vector<double> edges;
  if (values.empty()) return edges;
  std::vector<size_t> order;
  std::vector<int64_t> passed;  // mass at or before each place of the order
  if (times.empty()) {
    sort_numbers(values);
  } else {
    order.resize(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
    for (const size_t at : order) passed.push_back((passed.empty() ? 0 : passed.back()) + times[at]);
  }
  const int64_t total = times.empty() ? static_cast<int64_t>(values.size()) : passed.back();
  for (int64_t cut = 1; cut < buckets; ++cut) {
    const int64_t before = static_cast<int64_t>(static_cast<double>(cut) / static_cast<double>(buckets) * static_cast<double>(total));
    const size_t at =
        times.empty() ? static_cast<size_t>(before) : order[static_cast<size_t>(std::upper_bound(passed.begin(), passed.end(), before) - passed.begin())];
    const double edge = static_cast<double>(values[at]);
    const double least = static_cast<double>(times.empty() ? values.front() : values[order.front()]);
    if (edge > least && (edges.empty() || edge > edges.back())) edges.push_back(edge);
  }
  return edges;
}

/// @brief Codes and counts of one field while data are read.
///
/// Two steps, so that one pass over a file serves training and held-out rows alike: encode() gives every raw value a provisional code and counts
/// nothing; count() is called for training rows only; fit() makes the field, and id() turns codes into ids. Codes are 0 for missing, 1, 2, … for texts
/// in the order of their first appearance, and for numbers the bits of the float.
class FieldCounter {
 public:
  /// @brief Nothing seen yet.
  /// @throws c10::ValueError on an impossible plan
  explicit FieldCounter(FieldPlan plan) : plan_(std::move(plan)) {
    HTL_CHECK(plan_.min_count >= 0, "htl::FieldCounter: field \"", plan_.name, "\": expected min_count ≥ 0, got ", plan_.min_count);
    HTL_CHECK(plan_.buckets >= 1, "htl::FieldCounter: field \"", plan_.name, "\": expected at least one bucket, got ", plan_.buckets);
  }

  /// @brief The plan.
  const FieldPlan& plan() const { return plan_; }
  /// @brief The provisional code of a raw text in a field with one value.
  /// @throws c10::ValueError for text other than a number in a bucketised field
  int32_t encode(std::string_view text) {
    if (plan_.kind == FieldKind::bucketised) return std::bit_cast<int32_t>(FeatureMap::number_or_nan(plan_.name, text));
    return text.empty() ? 0 : 1 + texts_.add(text);
  }
  /// @brief The provisional code of a number in a bucketised field; NaN is missing.
  static int32_t encode_number(double number) { return std::bit_cast<int32_t>(static_cast<float>(number)); }
  /// @brief Appends the provisional codes of a raw text, of any kind of field.
  void append_codes(std::string_view text, std::vector<int32_t>& codes) {
    if (plan_.kind != FieldKind::multi_valued) {
      codes.push_back(encode(text));
      return;
    }
    const size_t before = codes.size();
    FeatureMap::for_each_value(text, plan_.separator, [&](std::string_view value) { codes.push_back(encode(value)); });
    if (codes.size() == before) codes.push_back(0);
  }
  /// @brief Counts a code of a training row.
  void count(int32_t code, int64_t times = 1) {
    if (plan_.kind == FieldKind::bucketised) {
      const float number = std::bit_cast<float>(code);
      if (std::isnan(number) || times <= 0) return;
      if (times != 1 && times_.empty()) times_.assign(numbers_.size(), 1);
      if (times != 1 || !times_.empty()) times_.push_back(times);
      numbers_.push_back(number);
      return;
    }
    const size_t at = static_cast<size_t>(code);
    if (at >= counts_.size()) counts_.resize(static_cast<size_t>(texts_.size()) + 1, 0);
    counts_[at] += times;
  }
  /// @brief How many distinct texts were encoded.
  int32_t distinct() const { return texts_.size(); }

  /// @brief The field, from what was counted. Texts by falling count, equal counts by their bytes: the order of rows and files does not matter.
  FeatureMap::Field fit();
  /// @brief Instead of fit(): takes the field of this name from a map that was fitted before, so that id() gives its ids.
  /// @throws c10::IndexError if the map has no such field; c10::ValueError if it is of another kind
  void adopt(const FeatureMap& map);
  /// @brief The distinct texts by provisional code; the first one, of code 0, is empty.
  std::vector<std::string> texts() const {
    std::vector<std::string> result(1);
    for (int32_t n = 0; n < texts_.size(); ++n) result.emplace_back(texts_.text(n));
    return result;
  }
  /// @brief The id of a provisional code in the fitted field.
  int32_t id(int32_t code) const {
    if (plan_.kind == FieldKind::bucketised) return FeatureMap::bucket_of(edges_, std::bit_cast<float>(code));
    return ids_[static_cast<size_t>(code)];
  }

 private:
  FieldPlan plan_;
  Vocabulary texts_;
  std::vector<int64_t> counts_;  // by code
  std::vector<float> numbers_;   // of a bucketised field
  std::vector<int64_t> times_;   // of each number, unless all came once
  std::vector<int32_t> ids_;     // by code, after fit()
  std::vector<float> edges_;     // after fit()
};

inline FeatureMap::Field FieldCounter::fit() {
  FeatureMap::Field field{plan_.name, plan_.kind, plan_.separator};
  if (plan_.kind == FieldKind::bucketised) {
    field.edges = plan_.edges ? *plan_.edges : quantile_edges(numbers_, times_, plan_.buckets);
    edges_.assign(field.edges.begin(), field.edges.end());
    numbers_ = {};
    times_ = {};
    return field;
  }
  counts_.resize(static_cast<size_t>(texts_.size()) + 1, 0);
  std::vector<int32_t> order;
  for (int32_t n = 0; n < texts_.size(); ++n)
    if (counts_[static_cast<size_t>(n) + 1] >= std::max<int64_t>(plan_.min_count, 1)) order.push_back(n);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const int64_t more = counts_[static_cast<size_t>(a) + 1], less = counts_[static_cast<size_t>(b) + 1];
    return more != less ? more > less : texts_.text(a) < texts_.text(b);
  });
  ids_.assign(static_cast<size_t>(texts_.size()) + 1, 0);
  field.vocabulary.reserve(order.size());
  for (const int32_t n : order) {
    field.vocabulary.emplace_back(texts_.text(n));
    ids_[static_cast<size_t>(n) + 1] = static_cast<int32_t>(field.vocabulary.size());
  }
  return field;
}

inline void FieldCounter::adopt(const FeatureMap& map) {
  const int64_t at = map.index(plan_.name);
  const FeatureMap::Field& field = map.fields()[static_cast<size_t>(at)];
  HTL_CHECK(field.kind == plan_.kind && field.separator == plan_.separator, "htl::FieldCounter: field \"", plan_.name, "\" is ", to_string(plan_.kind),
            " here and ", to_string(field.kind), field.kind == plan_.kind ? " with another separator" : "",
            " in the feature map; read the data as in training");
  edges_.assign(field.edges.begin(), field.edges.end());
  ids_.assign(1, 0);
  if (plan_.kind == FieldKind::bucketised) return;
  for (int32_t n = 0; n < texts_.size(); ++n) map.append_ids(at, texts_.text(n), ids_);  // a single value, so a single id
}

}  // namespace htl
