// SPDX-License-Identifier: Apache-2.0
/// @file feature_map.hpp
/// @brief FeatureMap: raw value → id. A part of the model: training and serving map by the same calls, and it is saved with the weights.
#pragma once

#include <htl/data/number.hpp>
#include <htl/data/vocabulary.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How a raw value becomes an id.
enum class FieldKind {
  categorical,   ///< one text, one id
  multi_valued,  ///< several texts between separators, one id each
  bucketised     ///< a number, the id of its bucket
};

/// @brief "categorical", "multi_valued", "bucketised"
inline std::string to_string(FieldKind kind) {
  switch (kind) {
    case FieldKind::categorical:
      return "categorical";
    case FieldKind::multi_valued:
      return "multi_valued";
    case FieldKind::bucketised:
      return "bucketised";
  }
  return "unknown";
}

/// @brief A field kind by its name in files.
/// @throws c10::ValueError naming the nearest name
inline FieldKind field_kind(std::string_view name) {
  for (const FieldKind kind : {FieldKind::categorical, FieldKind::multi_valued, FieldKind::bucketised})
    if (to_string(kind) == name) return kind;
  const std::vector<std::string> names = {"categorical", "multi_valued", "bucketised"};
  HTL_CHECK(false, "htl::field_kind: unknown kind \"", name, "\"; did you mean \"", nearest(name, names), "\"? Known: ", quoted(names));
}

/// @brief The fields of a model in order, each with all that turns a raw value into an id, and the columns that enter as plain numbers.
///
/// Id 0 means unknown or missing in every field: an empty text, a text outside the vocabulary (new, or too rare in training), a missing number.
/// `vocabulary[i]` has id i + 1. A number x has id 1 + #{edges ≤ x}; numbers and edges are compared in single precision.
/// A value type: compare, copy, move; `fields()` and `numeric()` are all of its state, and the constructor takes them back.
class FeatureMap {
 public:
  /// @brief One field.
  struct Field {
    std::string name;                          ///< unique and not empty
    FieldKind kind = FieldKind::categorical;   ///< which of the members below count
    char separator = '\0';                     ///< between the values of a multi-valued field
    std::vector<std::string> vocabulary = {};  ///< known texts in order of id; not for bucketised fields
    std::vector<double> edges = {};            ///< bucket edges, rising; bucketised fields only
    /// @brief Member by member.
    bool operator==(const Field&) const = default;
  };
  /// @brief One column that enters the model as a number.
  struct Numeric {
    std::string name;      ///< unique among the numeric columns
    double missing = 0.0;  ///< stands in for a missing value; the training mean by convention
    /// @brief Member by member.
    bool operator==(const Numeric&) const = default;
  };

  /// @brief No field.
  FeatureMap() = default;
  /// @brief The map of the given fields and numeric columns.
  /// @throws c10::ValueError: an empty or repeated name, an empty or repeated text in a vocabulary, edges that don't rise or aren't finite, a
  ///   separator missing or out of place, a field with both vocabulary and edges
  explicit FeatureMap(std::vector<Field> fields, std::vector<Numeric> numeric = {});

  /// @brief All fields, in the order of their columns in [B, F] ids.
  const std::vector<Field>& fields() const { return fields_; }
  /// @brief All numeric columns, in the order of [B, N] numbers.
  const std::vector<Numeric>& numeric() const { return numeric_; }
  /// @brief F.
  int64_t size() const { return static_cast<int64_t>(fields_.size()); }
  /// @brief The names of the fields.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const Field& field : fields_) result.push_back(field.name);
    return result;
  }
  /// @brief How many ids each field has, id 0 included.
  std::vector<int64_t> sizes() const {
    std::vector<int64_t> result;
    for (const Field& field : fields_) result.push_back(size_of(field));
    return result;
  }
  /// @brief Whether every field has exactly one id in a row, so that ids are [B, F].
  bool is_short() const {
    return std::none_of(fields_.begin(), fields_.end(), [](const Field& field) { return field.kind == FieldKind::multi_valued; });
  }
  /// @brief The position of a field.
  /// @throws c10::IndexError naming the nearest name
  int64_t index(std::string_view name) const {
    for (size_t f = 0; f < fields_.size(); ++f)
      if (fields_[f].name == name) return static_cast<int64_t>(f);
    HTL_CHECK_INDEX(false, "htl::FeatureMap: there is no field \"", name, "\"; did you mean \"", nearest(name, names()), "\"? Fields: ", quoted(names()));
  }

  /// @brief The id of a raw text in a field with one id. A number's text is parsed. O(length), no allocation.
  /// @throws c10::IndexError outside [0, F); c10::ValueError for a multi-valued field, or for text other than a number in a bucketised one
  int32_t id(int64_t field, std::string_view text) const;
  /// @brief The id of a whole number: its decimal text in a categorical field, its bucket in a bucketised one.
  int32_t id(int64_t field, int64_t number) const {
    if (at(field).kind == FieldKind::bucketised) return bucket(field, static_cast<double>(number));
    std::array<char, 24> text{};
    const char* const end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
    return id(field, std::string_view(text.data(), static_cast<size_t>(end - text.data())));
  }
  /// @brief The id of a number in a bucketised field; NaN is missing.
  /// @throws c10::ValueError for a field of another kind
  int32_t bucket(int64_t field, double number) const {
    HTL_CHECK(at(field).kind == FieldKind::bucketised, "htl::FeatureMap: field \"", at(field).name, "\" is ", to_string(at(field).kind),
              "; only a bucketised one has an id for the number ", number);
    return bucket_of(lookups_[static_cast<size_t>(field)].edges, static_cast<float>(number));
  }
  /// @brief Appends the ids of a raw text, of any field: one id, or one a value in a multi-valued field (empty values are skipped; of nothing, id 0).
  void append_ids(int64_t field, std::string_view text, std::vector<int32_t>& ids) const {
    if (at(field).kind != FieldKind::multi_valued) {
      ids.push_back(id(field, text));
      return;
    }
    const size_t before = ids.size();
    for_each_value(text, at(field).separator, [&](std::string_view value) { ids.push_back(lookup(field, value)); });
    if (ids.size() == before) ids.push_back(0);
  }
  /// @brief The number of a raw text in a numeric column; its `missing` where there is none.
  /// @throws c10::IndexError outside the columns; c10::ValueError for text other than a number, or a number beyond single precision
  float number(int64_t column, std::string_view text) const {
    HTL_CHECK_INDEX(column >= 0 && column < static_cast<int64_t>(numeric_.size()), "htl::FeatureMap: expected a numeric column in [0, ", numeric_.size(),
                    "), got ", column);
    const Numeric& known = numeric_[static_cast<size_t>(column)];
    const float value = number_or_nan(known.name, text);
    HTL_CHECK(!std::isinf(value), "htl::FeatureMap: numeric column \"", known.name, "\": expected a number within single precision, got \"", text.substr(0, 60),
              "\"; scale the column, or take its logarithm");
    return std::isnan(value) ? static_cast<float>(known.missing) : value;
  }

  /// @brief Whether two maps give the same ids and numbers.
  bool operator==(const FeatureMap& other) const { return fields_ == other.fields_ && numeric_ == other.numeric_; }

  /// @brief Calls visit(value) for each non-empty value between separators.
  template <class Visit>
  static void for_each_value(std::string_view text, char separator, const Visit& visit) {
    while (!text.empty()) {
      const size_t end = std::min(text.find(separator), text.size());
      if (end > 0) visit(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }
  /// @brief 1 + #{edges ≤ value}; 0 for NaN.
  static int32_t bucket_of(const std::vector<float>& edges, float value) {
    if (std::isnan(value)) return 0;
    size_t below = 0;  // a binary search that the compiler makes without branches
    for (size_t left = edges.size(); left > 0;) {
      const size_t half = (left + 1) / 2;
      below += edges[below + half - 1] <= value ? half : 0;
      left -= half;
    }
    return 1 + static_cast<int32_t>(below);
  }
  /// @brief The number of a text in single precision; NaN where it is missing.
  /// @param name the column, for the sentence
  /// @param text the raw text
  /// @throws c10::ValueError if it is neither
  static float number_or_nan(const std::string& name, std::string_view text) {
    double value = 0.0;
    if (parse_number(text, value)) return static_cast<float>(value);
    HTL_CHECK(is_missing(text), "htl::FeatureMap: field \"", name, "\": expected a number or nothing, got \"", text.substr(0, 60), "\"");
    return std::numeric_limits<float>::quiet_NaN();
  }

 private:
  struct Lookup {
    StringIndex index;
    std::vector<float> edges;
  };
  static int64_t size_of(const Field& field) {
    return field.kind == FieldKind::bucketised ? static_cast<int64_t>(field.edges.size()) + 2 : static_cast<int64_t>(field.vocabulary.size()) + 1;
  }
  const Field& at(int64_t field) const {
    HTL_CHECK_INDEX(field >= 0 && field < size(), "htl::FeatureMap: expected a field in [0, ", size(), "), got ", field);
    return fields_[static_cast<size_t>(field)];
  }
  int32_t lookup(int64_t field, std::string_view text) const noexcept {
    const std::vector<std::string>& vocabulary = fields_[static_cast<size_t>(field)].vocabulary;
    return 1 + lookups_[static_cast<size_t>(field)].index.find(text, StringIndex::key(text),
                                                               [&](int32_t n) -> const std::string& { return vocabulary[static_cast<size_t>(n)]; });
  }
  Lookup prepare(const Field& field) const;

  std::vector<Field> fields_;
  std::vector<Numeric> numeric_;
  std::vector<Lookup> lookups_;
};

inline int32_t FeatureMap::id(int64_t field, std::string_view text) const {
  const Field& known = at(field);
  if (known.kind == FieldKind::categorical) return text.empty() ? 0 : lookup(field, text);
  HTL_CHECK(known.kind == FieldKind::bucketised, "htl::FeatureMap: field \"", known.name, "\" is multi-valued, so it has no single id; use append_ids()");
  return bucket_of(lookups_[static_cast<size_t>(field)].edges, number_or_nan(known.name, text));
}

inline FeatureMap::Lookup FeatureMap::prepare(const Field& field) const {
  const auto who = [&] { return "htl::FeatureMap: field \"" + field.name + "\""; };
  const bool bucketised = field.kind == FieldKind::bucketised;
  HTL_CHECK(bucketised ? field.vocabulary.empty() : field.edges.empty(), who(), " is ", to_string(field.kind), "; expected no ",
            bucketised ? "vocabulary" : "bucket edges");
  HTL_CHECK((field.kind == FieldKind::multi_valued) == (field.separator != '\0'), who(), " is ", to_string(field.kind), "; expected ",
            field.kind == FieldKind::multi_valued ? "a separator" : "no separator");
  Lookup lookup;
  lookup.index.reserve(field.vocabulary.size());
  const auto text_of = [&](int32_t n) -> const std::string& { return field.vocabulary[static_cast<size_t>(n)]; };
  for (const std::string& text : field.vocabulary) {
    HTL_CHECK(!text.empty(), who(), ": expected texts in the vocabulary, got an empty one; missing values have id 0 already");
    const uint64_t key = StringIndex::key(text);
    HTL_CHECK(lookup.index.find(text, key, text_of) < 0, who(), ": \"", text, "\" is in the vocabulary twice");
    lookup.index.add(key);
  }
  for (const double edge : field.edges) {
    const float rounded = static_cast<float>(edge);
    HTL_CHECK(std::isfinite(rounded) && (lookup.edges.empty() || rounded > lookup.edges.back()), who(),
              ": expected finite bucket edges that rise in single precision, got ", edge, lookup.edges.empty() ? " first" : " after ",
              lookup.edges.empty() ? std::string() : std::to_string(lookup.edges.back()));
    lookup.edges.push_back(rounded);
  }
  return lookup;
}

inline FeatureMap::FeatureMap(std::vector<Field> fields, std::vector<Numeric> numeric) : fields_(std::move(fields)), numeric_(std::move(numeric)) {
  std::set<std::string_view> names, columns;  // a file may name very many
  for (size_t f = 0; f < fields_.size(); ++f) {
    HTL_CHECK(!fields_[f].name.empty(), "htl::FeatureMap: expected a name for field ", f, ", got an empty one");
    HTL_CHECK(names.insert(fields_[f].name).second, "htl::FeatureMap: the field \"", fields_[f].name, "\" is there twice");
    lookups_.push_back(prepare(fields_[f]));
  }
  for (size_t n = 0; n < numeric_.size(); ++n) {
    HTL_CHECK(!numeric_[n].name.empty(), "htl::FeatureMap: expected a name for numeric column ", n, ", got an empty one");
    HTL_CHECK(std::isfinite(numeric_[n].missing), "htl::FeatureMap: numeric column \"", numeric_[n].name,
              "\": expected a finite stand-in for missing values, got ", numeric_[n].missing);
    HTL_CHECK(columns.insert(numeric_[n].name).second, "htl::FeatureMap: the numeric column \"", numeric_[n].name, "\" is there twice");
  }
}

}  // namespace htl
