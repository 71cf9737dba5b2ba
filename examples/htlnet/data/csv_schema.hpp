// SPDX-License-Identifier: Apache-2.0
/// @file csv_schema.hpp
/// @brief The schema of a CSV data set: which columns are features, labels and splits; read from TOML.
///
/// docs/csv_schema.md is its reference: every key, its default and one full example, which a test reads.
#pragma once

#include <htl/data/field_counter.hpp>
#include <htl/task/built_in_transforms.hpp>
#include <htl/task/task_set.hpp>

#include <examples/htlnet/toml_file.hpp>

#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief Which values of the split's column belong to one part.
struct SplitRule {
  std::vector<std::string> values;                           ///< exactly these
  std::optional<std::pair<std::string, std::string>> range;  ///< or all from the first to the second, by value if both are numbers, else by bytes
  /// @brief Whether a text belongs to it.
  bool contains(std::string_view text) const {
    if (!range) return std::find(values.begin(), values.end(), text) != values.end();
    double from = 0.0, to = 0.0, value = 0.0;
    if (htl::parse_number(range->first, from) && htl::parse_number(range->second, to)) return htl::parse_number(text, value) && value >= from && value <= to;
    return text >= range->first && text <= range->second;
  }
  /// @brief Whether nothing belongs to it.
  bool empty() const { return values.empty() && !range; }
};

/// @brief All that a schema file says; docs/csv_schema.md explains it.
struct CsvSchema {
  std::string path;                        ///< of the schema, for sentences
  char separator = ',';                    ///< between columns
  std::vector<std::string> files;          ///< names in the data directory; empty = all
  std::vector<std::string> groups;         ///< columns by which metrics are grouped
  bool names_min_count = false;            ///< whether the file has min_count
  std::vector<htl::FieldPlan> fields;      ///< what becomes ids
  std::vector<std::string> numeric;        ///< what stays a number
  std::vector<htl::TaskSpec> tasks;        ///< in order
  std::vector<std::string> label_columns;  ///< of each task
  std::vector<bool> names_transform;       ///< whether the file has each task's transform
  std::string split_column;                ///< empty = by fractions
  std::array<SplitRule, 3> split;          ///< training, validation, test
  std::array<double, 3> fractions = {};    ///< of the rows, in file order; without a split column

  /// @brief Whether there is to be a part: 0 = training, 1 = validation, 2 = test.
  bool asks_for(size_t part) const { return split_column.empty() ? fractions[part] > 0.0 : !split[part].empty(); }
  /// @brief Reads a schema file.
  /// @throws c10::ValueError naming file and line: not TOML, an unknown key (with the nearest one), a value of the wrong kind, a label among the features
  static CsvSchema read(const std::string& path);
};

namespace detail {

/// @brief A table of a schema with its name in sentences; every read checks the kind of value.
class SchemaTable {
 public:
  /// @brief A table that may hold the given keys.
  SchemaTable(const toml::table& table, std::string path, std::string name, const std::vector<std::string>& known)
      : table_(table), path_(std::move(path)), name_(std::move(name)) {
    for (const auto& [key, node] : table) {
      const std::string word(key.str());
      HTL_CHECK(std::find(known.begin(), known.end(), word) != known.end(), where(node), "unknown key \"", word, "\" in ", name_, "; did you mean \"",
                htl::nearest(word, known), "\"? Known: ", htl::quoted(known));
    }
  }
  const toml::node* find(const std::string& key) const { return table_.get(key); }
  std::string text(const std::string& key, const std::string& otherwise = "") const {
    const toml::node* node = find(key);
    return node ? name_of(*node, key) : otherwise;
  }
  std::string required_text(const std::string& key) const {
    HTL_CHECK(find(key), where(table_), "expected ", key, " in ", name_);
    return text(key);
  }
  std::vector<std::string> texts(const std::string& key) const {
    std::vector<std::string> result;
    const toml::node* node = find(key);
    if (node == nullptr) return result;
    HTL_CHECK(node->is_array(), where(*node), "expected a list of texts for ", key, " in ", name_, ", got ", kind_of(*node));
    std::set<std::string> before;  // a list may be long
    for (const toml::node& item : *node->as_array()) {
      result.push_back(name_of(item, key));
      HTL_CHECK(before.insert(result.back()).second, where(item), "\"", result.back(), "\" is there twice in ", key, " of ", name_);
    }
    return result;
  }
  double number(const std::string& key, double otherwise) const {
    const toml::node* node = find(key);
    if (node == nullptr) return otherwise;
    return number_of(*node, key);
  }
  int64_t whole(const std::string& key, int64_t otherwise, int64_t least) const {
    const toml::node* node = find(key);
    if (node == nullptr) return otherwise;
    const std::optional<int64_t> value = node->value_exact<int64_t>();
    HTL_CHECK(value && *value >= least, where(*node), "expected a whole number ≥ ", least, " for ", key, " in ", name_, ", got ", shown(*node));
    return *value;
  }
  bool flag(const std::string& key) const {
    const toml::node* node = find(key);
    if (node == nullptr) return false;
    HTL_CHECK(node->is_boolean(), where(*node), "expected true or false for ", key, " in ", name_, ", got ", kind_of(*node));
    return node->value_exact<bool>().value();
  }
  /// @brief One character.
  char character(const toml::node& node, const std::string& key) const {
    const std::string text = text_of(node, key);
    HTL_CHECK(text.size() == 1 && text[0] != '\n' && text[0] != '\r' && text[0] != '\0', where(node), "expected one character as the separator of ", key,
              " in ", name_, ", got ", shown(node));
    return text[0];
  }
  std::string text_of(const toml::node& node, const std::string& key) const {
    HTL_CHECK(node.is_string(), where(node), "expected a text for ", key, " in ", name_, ", got ", kind_of(node));
    return node.value_exact<std::string>().value();
  }
  /// @brief A text that names something.
  std::string name_of(const toml::node& node, const std::string& key) const {
    const std::string text = text_of(node, key);
    HTL_CHECK(!text.empty(), where(node), "expected a name for ", key, " in ", name_, ", got an empty text; leave it out where there is none");
    return text;
  }
  double number_of(const toml::node& node, const std::string& key) const {
    const std::optional<double> value = node.is_number() ? node.value<double>() : std::nullopt;
    HTL_CHECK(value && std::isfinite(*value), where(node), "expected a finite number for ", key, " in ", name_, ", got ", shown(node));
    return *value;
  }
  /// @brief A value of the split's column, as its text in the file: a text, a whole number or a date.
  std::string column_value(const toml::node& node, const std::string& key) const {
    HTL_CHECK(node.is_string() || node.is_integer() || node.is_date(), where(node), "expected texts, whole numbers or dates for ", key, " in ", name_, ", got ",
              kind_of(node));
    return node.is_string() ? text_of(node, key) : shown(node);
  }
  /// @brief "htlnet: schema.toml, line 3: "
  std::string where(const toml::node& node) const { return "htlnet: \"" + path_ + "\", line " + std::to_string(node.source().begin.line) + ": "; }
  static std::string kind_of(const toml::node& node) {
    if (node.is_string()) return "a text";
    if (node.is_array()) return "a list";
    if (node.is_table()) return "a table";
    if (node.is_boolean()) return "true or false";
    return node.is_number() ? "a number" : "a date or time";
  }
  const std::string& name() const { return name_; }

 private:
  static std::string shown(const toml::node& node) {
    std::ostringstream text;
    node.visit([&](const auto& value) { text << value; });
    return text.str();
  }
  const toml::table& table_;
  std::string path_, name_;
};

inline htl::TaskSpec read_task(const toml::table& table, const std::string& path, size_t position, std::string& label_column) {
  const SchemaTable task(
      table, path, "[[task]] number " + std::to_string(position + 1),
      {"name", "kind", "column", "classes", "after", "core", "transform", "observed_when", "mask_column", "weight_column", "weight", "context"});
  const std::string name = task.required_text("name"), kind = task.required_text("kind");
  const std::vector<std::string> kinds = {"binary", "multiclass", "regression"};
  HTL_CHECK(std::find(kinds.begin(), kinds.end(), kind) != kinds.end(), task.where(*task.find("kind")), "unknown kind \"", kind, "\" of task \"", name,
            "\"; did you mean \"", htl::nearest(kind, kinds), "\"? Known: ", htl::quoted(kinds));
  HTL_CHECK((kind == "multiclass") == (task.find("classes") != nullptr), task.where(table), "task \"", name, "\" is ", kind, "; expected ",
            kind == "multiclass" ? "classes, their number" : "no classes");
  label_column = task.text("column", name);
  try {
    htl::TaskSpec spec = kind == "binary"       ? htl::binary(name)
                         : kind == "regression" ? htl::regression(name)
                                                : htl::multiclass(name, task.whole("classes", 2, 2));
    if (task.find("after")) spec = spec.after(task.texts("after"));
    if (task.find("transform")) spec = spec.transform(htl::label_transform(task.text("transform")));
    return spec.core(task.flag("core"))
        .observed_when(task.text("observed_when"))
        .mask_column(task.text("mask_column"))
        .weight_column(task.text("weight_column"))
        .weight(task.number("weight", 1.0))
        .context(task.texts("context"));
  } catch (const c10::Error& error) {
    const std::string sentence = error.what_without_backtrace();
    HTL_CHECK(false, sentence.starts_with("htlnet:") ? "" : task.where(table), sentence);
  }
}

inline void read_features(const toml::table& table, CsvSchema& schema) {
  const SchemaTable features(table, schema.path, "[features]", {"categorical", "multi_valued", "bucketised", "numeric", "min_count", "buckets"});
  schema.names_min_count = features.find("min_count") != nullptr;
  const int64_t min_count = features.whole("min_count", 1, 0), buckets = features.whole("buckets", 32, 1);
  for (const std::string& name : features.texts("categorical")) schema.fields.push_back({name, htl::FieldKind::categorical, '\0', min_count, buckets});
  if (const toml::node* node = features.find("multi_valued")) {
    HTL_CHECK(node->is_table(), features.where(*node), "expected multi_valued = { column = \"separator\" } in [features], got ", SchemaTable::kind_of(*node));
    for (const auto& [key, separator] : *node->as_table())
      schema.fields.push_back({std::string(key.str()), htl::FieldKind::multi_valued, features.character(separator, "multi_valued"), min_count, buckets});
  }
  for (const std::string& name : features.texts("bucketised")) schema.fields.push_back({name, htl::FieldKind::bucketised, '\0', min_count, buckets});
  schema.numeric = features.texts("numeric");
  HTL_CHECK(!schema.fields.empty(), features.where(table), "expected at least one categorical, multi_valued or bucketised column in [features], got none");
  std::map<std::string, htl::FieldKind> kinds;
  for (const htl::FieldPlan& field : schema.fields) {
    const auto [known, is_new] = kinds.emplace(field.name, field.kind);
    HTL_CHECK(is_new, features.where(table), "the column \"", field.name, "\" is ", htl::to_string(known->second), " and ", htl::to_string(field.kind),
              "; keep one");
  }
}

inline void read_split(const toml::table& table, CsvSchema& schema) {
  const SchemaTable split(table, schema.path, "[split]", {"column", "train", "valid", "test", "fractions"});
  const toml::node* const fractions = split.find("fractions");
  HTL_CHECK((fractions != nullptr) != (split.find("column") != nullptr), split.where(table), "expected in [split] either fractions or a column, got ",
            fractions != nullptr ? "both" : "neither");
  const std::array<std::string, 3> parts = {"train", "valid", "test"};
  if (fractions != nullptr) {
    for (const std::string& part : parts) HTL_CHECK(!split.find(part), split.where(table), "fractions stand alone in [split]; remove ", part);
    const toml::array* const list = fractions->as_array();
    HTL_CHECK(list && list->size() == 3, split.where(*fractions), "expected fractions = [train, valid, test] in [split]");
    double total = 0.0;
    for (size_t s = 0; s < 3; ++s) {
      schema.fractions[s] = split.number_of(*list->get(s), "fractions");
      total += schema.fractions[s];
    }
    HTL_CHECK(schema.fractions[0] > 0.0 && schema.fractions[1] >= 0.0 && schema.fractions[2] >= 0.0 && std::abs(total - 1.0) < 1e-9, split.where(*fractions),
              "expected fractions that are not negative, the first one positive, and add up to 1, got ", schema.fractions[0], ", ", schema.fractions[1], ", ",
              schema.fractions[2]);
    return;
  }
  schema.split_column = split.text("column");
  for (size_t s = 0; s < 3; ++s) {
    const toml::node* const node = split.find(parts[s]);
    if (node == nullptr) continue;
    if (const toml::table* range = node->as_table()) {
      const SchemaTable ends(*range, schema.path, parts[s] + " of [split]", {"from", "to"});
      HTL_CHECK(ends.find("from") && ends.find("to"), split.where(*node), "expected from and to in ", ends.name());
      schema.split[s].range = {ends.column_value(*ends.find("from"), "from"), ends.column_value(*ends.find("to"), "to")};
      HTL_CHECK(schema.split[s].contains(schema.split[s].range->second), split.where(*node), ends.name(), " ends before it begins");
    } else if (const toml::array* list = node->as_array()) {
      for (const toml::node& item : *list) schema.split[s].values.push_back(split.column_value(item, parts[s]));
    } else {
      schema.split[s].values.push_back(split.column_value(*node, parts[s]));
    }
  }
  HTL_CHECK(!schema.split[0].empty(), split.where(table), "expected train in [split]: which values of \"", schema.split_column, "\" are training rows?");
}

}  // namespace detail

inline CsvSchema CsvSchema::read(const std::string& path) {
  toml::table file;
  try {
    file = read_toml(path);
  } catch (const toml::parse_error& error) {
    HTL_CHECK(false, "htlnet: can't read the schema \"", path, "\", line ", error.source().begin.line, ": ", error.description());
  }
  CsvSchema schema;
  schema.path = path;
  const detail::SchemaTable top(file, path, "the schema", {"separator", "files", "groups", "features", "task", "split"});
  if (top.find("separator")) schema.separator = top.character(*top.find("separator"), "columns");
  schema.files = top.texts("files");
  HTL_CHECK(!top.find("files") || !schema.files.empty(), top.where(*top.find("files")),
            "expected the names of files in files of the schema, got none; leave it out to read every *.csv and *.csv.gz of the folder");
  schema.groups = top.texts("groups");
  for (const std::string part : {"features", "split"})
    HTL_CHECK(top.find(part) && top.find(part)->is_table(), "htlnet: \"", path, "\": expected a table [", part, "]");
  detail::read_features(*top.find("features")->as_table(), schema);
  detail::read_split(*top.find("split")->as_table(), schema);
  const toml::array* const tasks = top.find("task") ? top.find("task")->as_array() : nullptr;
  HTL_CHECK(tasks && !tasks->empty() && tasks->is_array_of_tables(), "htlnet: \"", path, "\": expected at least one [[task]]");
  for (const toml::node& task : *tasks) {
    schema.label_columns.emplace_back();
    schema.names_transform.push_back(task.as_table()->contains("transform"));
    schema.tasks.push_back(detail::read_task(*task.as_table(), path, schema.tasks.size(), schema.label_columns.back()));
  }
  try {
    htl::TaskSet checked(schema.tasks);
  } catch (const c10::Error& error) {
    HTL_CHECK(false, "htlnet: \"", path, "\": ", error.what_without_backtrace());
  }
  std::vector<std::string> features = schema.numeric;
  for (const htl::FieldPlan& field : schema.fields) features.push_back(field.name);
  for (size_t t = 0; t < schema.tasks.size(); ++t)
    for (const std::string& column : {schema.label_columns[t], schema.tasks[t].mask_column()})
      HTL_CHECK(column.empty() || std::find(features.begin(), features.end(), column) == features.end(), "htlnet: \"", path, "\": the column \"", column,
                "\" tells the label of task \"", schema.tasks[t].name(), "\" and can't be a feature; remove it from [features]");
  return schema;
}

}  // namespace htlnet
