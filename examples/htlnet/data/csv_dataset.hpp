// SPDX-License-Identifier: Apache-2.0
/// @file csv_dataset.hpp
/// @brief Reads a data set from CSV files by a schema.
#pragma once

#include <examples/htlnet/data/chunks.hpp>
#include <examples/htlnet/data/csv_schema.hpp>
#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/files.hpp>
#include <examples/htlnet/data/single_precision.hpp>

#include <htl/data/csv.hpp>
#include <htl/data/field_counter.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief Choices of load_csv() that stand above the schema.
struct CsvDatasetOptions {
  std::optional<int64_t> min_count = {};        ///< instead of the schema's
  const htl::FeatureMap* features = nullptr;    ///< a fitted map to use instead of fitting one; training and validation rows may then be missing
  const htl::FeatureMap* statistics = nullptr;  ///< a map whose bucket edges and stand-ins for missing numbers are kept, by name
  bool labels = true;                           ///< false = features and context only: columns of labels, masks, weights and groups need not be there
};

/// @brief Reads the rows of a directory, or of one file.
/// @param path a directory with *.csv and *.csv.gz (those the schema names, or all), or a file
/// @param schema what their columns are
/// @param options see there
/// @throws c10::ValueError naming file, line and column of what is wrong; a split that the schema asks for and that has no rows
inline Dataset load_csv(const std::string& path, const CsvSchema& schema, const CsvDatasetOptions& options = {});

namespace csv {

inline constexpr std::array<const char*, 3> split_names = {"training", "validation", "test"};

// The rows of one part while they are read.
struct Rows {
  Chunks<int32_t> codes;  // of all fields, row by row
  Chunks<int64_t> ends;   // with multi-valued fields: where each field's codes end
  Chunks<float> numeric;
  struct Column {
    Chunks<float> value, weight;
    Chunks<int64_t> class_index;
    Chunks<bool> observed;
    bool masked = false;  // whether any row was not observed
  };
  std::vector<Column> labels;
  std::vector<Chunks<float>> context;
  std::vector<Chunks<int32_t>> groups;
  int64_t count = 0;
};

class Reader {
 public:
  Reader(const CsvSchema& schema, const CsvDatasetOptions& options) : schema_(schema), options_(options) {
    for (htl::FieldPlan plan : schema.fields) {
      if (options.min_count) plan.min_count = *options.min_count;
      keep_edges(plan, options.statistics);
      is_short_ = is_short_ && plan.kind != htl::FieldKind::multi_valued;
      fields_.emplace_back(std::move(plan));
    }
    for (const htl::TaskSpec& task : schema.tasks)
      for (const std::string& column : task.context())
        if (std::find(context_.begin(), context_.end(), column) == context_.end()) context_.push_back(column);
    for (const std::string& column : schema.groups) {
      HTL_CHECK(std::find(context_.begin(), context_.end(), column) == context_.end(), "htlnet: \"", schema.path, "\": the column \"", column,
                "\" can't be a group and the context of a task at the same time");
      group_texts_.emplace_back();
    }
    for (Rows& rows : parts_) {
      rows.labels = std::vector<Rows::Column>(schema.tasks.size());
      rows.context = std::vector<Chunks<float>>(context_.size());
      rows.groups = std::vector<Chunks<int32_t>>(schema.groups.size());
      if (!is_short_) rows.ends.push_back(0);
    }
  }

  /// @param named whether somebody chose this file; otherwise it only lies in the directory
  void read(const std::string& path, bool named) {
    htl::CsvReader reader(path, {.separator = schema_.separator});
    Columns columns;
    try {
      columns = columns_of(reader);
    } catch (const c10::Error& error) {
      HTL_CHECK(false, error.what_without_backtrace(),
                named ? "" : "; if it holds no rows, name the files that do in the schema, as in files = [\"rows.csv\"]: without files every *.csv counts");
    }
    while (reader.next()) {
      const int part = columns.split ? part_of(reader, *columns.split) : 0;
      if (part >= 0) add(reader, columns, parts_[static_cast<size_t>(part)]);
    }
  }

  Dataset finish() {
    int64_t training = parts_[0].count;
    std::array<int64_t, 4> bounds = {};
    if (schema_.split_column.empty()) {
      for (size_t s = 0; s < 3; ++s) {
        const double end = schema_.fractions[0] + (s > 0 ? schema_.fractions[1] : 0.0);
        bounds[s + 1] = s == 2 ? training : std::llround(static_cast<double>(training) * end);
      }
      training = bounds[1];
    }
    for (size_t s = 0; s < 3; ++s) {
      const int64_t count = schema_.split_column.empty() ? bounds[s + 1] - bounds[s] : parts_[s].count;
      HTL_CHECK(count > 0 || !schema_.asks_for(s) || (options_.features && s < 2), "htlnet: expected ", split_names[s], " rows by [split] of \"", schema_.path,
                "\", found none among ", rows_read_, " rows");
    }
    std::array<at::Tensor, 3> codes, numeric;
    for (size_t s = 0; s < 3; ++s) {
      codes[s] = parts_[s].codes.to_tensor();
      numeric[s] = parts_[s].numeric.to_tensor().view({parts_[s].count, static_cast<int64_t>(schema_.numeric.size())});
      if (!is_short_) ends_[s] = parts_[s].ends.to_tensor();
    }
    Dataset data{fit(codes[0], numeric[0], training), htl::TaskSet(schema_.tasks), {}, {}, {}, {}};
    std::array<htl::TableData, 3> tables;
    for (size_t s = 0; s < 3; ++s) tables[s] = table(data.features, s, codes[s], numeric[s]);
    if (schema_.split_column.empty()) {
      const htl::TableData all = tables[0];
      for (size_t s = 0; s < 3; ++s) tables[s] = all.slice(bounds[s], bounds[s + 1]);
    }
    data.train = std::move(tables[0]);
    data.valid = std::move(tables[1]);
    data.test = std::move(tables[2]);
    for (size_t g = 0; options_.labels && g < schema_.groups.size(); ++g) {
      std::vector<std::string> texts;
      for (int32_t n = 0; n < group_texts_[g].size(); ++n) texts.emplace_back(group_texts_[g].text(n));
      data.groups.set(schema_.groups[g], std::move(texts));
    }
    return data;
  }

 private:
  struct Columns {
    std::vector<size_t> fields, numeric, context, groups, labels;
    std::vector<std::optional<size_t>> masks, weights;
    std::optional<size_t> split;
  };

  Columns columns_of(const htl::CsvReader& reader) const {
    Columns columns;
    for (const htl::FieldCounter& field : fields_) columns.fields.push_back(reader.column(field.plan().name));
    for (const std::string& name : schema_.numeric) columns.numeric.push_back(reader.column(name));
    for (const std::string& name : context_) columns.context.push_back(reader.column(name));
    for (size_t g = 0; options_.labels && g < schema_.groups.size(); ++g) columns.groups.push_back(reader.column(schema_.groups[g]));
    for (size_t t = 0; options_.labels && t < schema_.tasks.size(); ++t) {
      const htl::TaskSpec& task = schema_.tasks[t];
      columns.labels.push_back(reader.column(schema_.label_columns[t]));
      columns.masks.push_back(task.mask_column().empty() ? std::nullopt : std::optional(reader.column(task.mask_column())));
      columns.weights.push_back(task.weight_column().empty() ? std::nullopt : std::optional(reader.column(task.weight_column())));
    }
    if (!schema_.split_column.empty()) columns.split = reader.column(schema_.split_column);
    return columns;
  }

  // Which part a row belongs to; −1 = none. The rules are asked once for each distinct text.
  int part_of(const htl::CsvReader& reader, size_t column) {
    ++rows_read_;
    const int32_t code = split_texts_.add(reader[column]);
    if (static_cast<size_t>(code) == split_parts_.size()) {
      int part = -1;
      for (int s = 0; s < 3; ++s) {
        if (!schema_.split[static_cast<size_t>(s)].contains(reader[column])) continue;
        HTL_CHECK(part < 0, "htlnet: \"", schema_.path, "\": the value \"", reader[column], "\" of the split column \"", schema_.split_column, "\" belongs to ",
                  split_names[static_cast<size_t>(std::max(part, 0))], " and ", split_names[static_cast<size_t>(s)],
                  " rows; the parts of [split] must not overlap");
        part = s;
      }
      split_parts_.push_back(part);
    }
    return split_parts_[static_cast<size_t>(code)];
  }

  void add(const htl::CsvReader& reader, const Columns& columns, Rows& rows) {
    if (schema_.split_column.empty()) ++rows_read_;
    ++rows.count;
    for (size_t f = 0; f < fields_.size(); ++f) {
      const size_t column = columns.fields[f];
      const htl::FieldKind kind = fields_[f].plan().kind;
      if (kind == htl::FieldKind::multi_valued) {
        scratch_.clear();
        fields_[f].append_codes(reader[column], scratch_);
        for (const int32_t code : scratch_) rows.codes.push_back(code);
      } else {
        rows.codes.push_back(kind == htl::FieldKind::bucketised ? htl::FieldCounter::encode_number(single_or_missing(reader, column))
                                                                : fields_[f].encode(reader[column]));
      }
      if (!is_short_) rows.ends.push_back(static_cast<int64_t>(rows.codes.size()));
    }
    for (const size_t column : columns.numeric) rows.numeric.push_back(single_or_missing(reader, column));
    for (size_t t = 0; t < columns.labels.size(); ++t) add_label(reader, columns, t, rows.labels[t]);
    for (size_t c = 0; c < context_.size(); ++c) rows.context[c].push_back(single_precision(reader, columns.context[c], reader.number(columns.context[c])));
    for (size_t g = 0; g < columns.groups.size(); ++g) rows.groups[g].push_back(group_texts_[g].add(reader[columns.groups[g]]));
  }

  void add_label(const htl::CsvReader& reader, const Columns& columns, size_t t, Rows::Column& to) const {
    const htl::TaskSpec& task = schema_.tasks[t];
    const size_t column = columns.labels[t];
    bool observed = true;
    if (columns.masks[t]) {
      const double mask = reader.number(*columns.masks[t]);
      if (mask != 0.0 && mask != 1.0) reader.fail(*columns.masks[t], "0 or 1");
      observed = mask == 1.0;
    }
    observed = observed && !htl::is_missing(reader[column]);
    to.masked = to.masked || !observed;
    to.observed.push_back(observed);
    if (task.kind() == htl::TaskKind::multiclass) {
      const int64_t index = observed ? reader.integer(column) : 0;
      if (index < 0 || index >= task.classes()) reader.fail(column, "a class in [0, " + std::to_string(task.classes()) + ")");
      to.class_index.push_back(index);
    } else {
      const double value = observed ? reader.number(column) : 0.0;
      if (task.kind() == htl::TaskKind::binary && value != 0.0 && value != 1.0) reader.fail(column, "0 or 1, or nothing where it was not observed");
      to.value.push_back(single_precision(reader, column, value));
    }
    if (columns.weights[t]) {
      const double weight = reader.number(*columns.weights[t]);
      if (weight < 0.0) reader.fail(*columns.weights[t], "a weight ≥ 0");
      to.weight.push_back(single_precision(reader, *columns.weights[t], weight));
    }
  }

  // Fits the map to the first rows of the first part.
  htl::FeatureMap fit(const at::Tensor& codes, const at::Tensor& numeric, int64_t training) {
    if (options_.features) {
      for (htl::FieldCounter& field : fields_) field.adopt(*options_.features);
      std::vector<std::string> names, known;
      for (const htl::FieldCounter& field : fields_) names.push_back(field.plan().name);
      for (const htl::FeatureMap::Numeric& column : options_.features->numeric()) known.push_back(column.name);
      HTL_CHECK(names == options_.features->names() && known == schema_.numeric, "htlnet: the schema \"", schema_.path, "\" has the fields ",
                htl::quoted(names), " and the numeric columns ", htl::quoted(schema_.numeric), "; the feature map has ",
                htl::quoted(options_.features->names()), " and ", htl::quoted(known));
      return *options_.features;
    }
    const int32_t* const from = codes.const_data_ptr<int32_t>();
    const int64_t* const ends = is_short_ ? nullptr : ends_[0].const_data_ptr<int64_t>();
    const int64_t width = static_cast<int64_t>(fields_.size());
    std::vector<htl::FeatureMap::Field> fields;
    const auto count = [&](int64_t row, int64_t f) {
      const int64_t i = row * width + f;
      for (int64_t at = ends ? ends[i] : i; at < (ends ? ends[i + 1] : i + 1); ++at) fields_[static_cast<size_t>(f)].count(from[at]);
    };
    const auto is_number = [&](int64_t f) { return fields_[static_cast<size_t>(f)].plan().kind == htl::FieldKind::bucketised; };
    for (int64_t row = 0; row < training; ++row)
      for (int64_t f = 0; f < width; ++f)
        if (!is_number(f)) count(row, f);
    for (int64_t f = 0; f < width; ++f) {
      for (int64_t row = 0; row < training && is_number(f); ++row) count(row, f);  // the numbers of one field are held at a time
      fields.push_back(fields_[static_cast<size_t>(f)].fit());
    }
    std::vector<htl::FeatureMap::Numeric> columns;
    const int64_t numbers = static_cast<int64_t>(schema_.numeric.size());
    for (int64_t c = 0; c < numbers; ++c) {
      double sum = 0.0, known = 0.0;
      for (int64_t i = 0; i < training; ++i) {
        const float value = numeric.const_data_ptr<float>()[i * numbers + c];
        if (std::isnan(value)) continue;
        sum += static_cast<double>(value);
        known += 1.0;
      }
      columns.push_back({schema_.numeric[static_cast<size_t>(c)], known > 0.0 ? sum / known : 0.0});
      for (size_t n = 0; options_.statistics && n < options_.statistics->numeric().size(); ++n)
        if (options_.statistics->numeric()[n].name == columns.back().name) columns.back() = options_.statistics->numeric()[n];
    }
    return htl::FeatureMap(std::move(fields), std::move(columns));
  }

  htl::TableData table(const htl::FeatureMap& features, size_t part, at::Tensor codes, at::Tensor numeric) {
    Rows& rows = parts_[part];
    int32_t* const ids = codes.mutable_data_ptr<int32_t>();
    const int64_t* const ends = is_short_ ? nullptr : ends_[part].const_data_ptr<int64_t>();
    const int64_t width = static_cast<int64_t>(fields_.size()), columns = numeric.size(1);
    for (int64_t row = 0, i = 0; row < rows.count; ++row)
      for (int64_t f = 0; f < width; ++f, ++i)
        for (int64_t at = ends ? ends[i] : i; at < (ends ? ends[i + 1] : i + 1); ++at) ids[at] = fields_[static_cast<size_t>(f)].id(ids[at]);
    float* const numbers = numeric.mutable_data_ptr<float>();
    for (int64_t i = 0; i < rows.count * columns; ++i)
      if (std::isnan(numbers[i])) numbers[i] = static_cast<float>(features.numeric()[static_cast<size_t>(i % columns)].missing);
    htl::Batch all;
    all.fields = is_short_ ? htl::FieldBatch::of(codes.view({rows.count, width})) : htl::FieldBatch::bags(codes, ends_[part], width);
    if (columns > 0) all.numeric = numeric;
    for (size_t t = 0; options_.labels && t < schema_.tasks.size(); ++t) {
      Rows::Column& column = rows.labels[t];
      const htl::TaskSpec& task = schema_.tasks[t];
      htl::Label label{task.kind() == htl::TaskKind::multiclass ? column.class_index.to_tensor() : column.value.to_tensor()};
      if (column.masked) label.mask = column.observed.to_tensor();
      if (!task.weight_column().empty()) label.weight = column.weight.to_tensor();
      all.labels.set(task.name(), std::move(label));
    }
    for (size_t c = 0; c < context_.size(); ++c) all.labels.context.set(context_[c], rows.context[c].to_tensor());
    for (size_t g = 0; options_.labels && g < schema_.groups.size(); ++g) all.labels.context.set(schema_.groups[g], rows.groups[g].to_tensor());
    return htl::TableData(std::move(all));
  }

  const CsvSchema& schema_;
  const CsvDatasetOptions& options_;
  std::vector<htl::FieldCounter> fields_;
  std::vector<std::string> context_;
  std::vector<htl::Vocabulary> group_texts_;
  htl::Vocabulary split_texts_;
  std::vector<int> split_parts_;
  bool is_short_ = true;
  int64_t rows_read_ = 0;
  std::array<Rows, 3> parts_;  // all rows in the first one where the split is by fractions
  std::array<at::Tensor, 3> ends_;
  std::vector<int32_t> scratch_;
};

}  // namespace csv

inline Dataset load_csv(const std::string& path, const CsvSchema& schema, const CsvDatasetOptions& options) {
  csv::Reader reader(schema, options);
  const bool directory = std::filesystem::is_directory(path);
  if (!directory) {
    reader.read(path, true);
  } else if (schema.files.empty()) {
    for (const std::string& file : csv_files(path)) reader.read(file, false);
  } else {
    for (const std::string& file : schema.files) reader.read((std::filesystem::path(path) / file).string(), true);
  }
  return reader.finish();
}

}  // namespace htlnet
