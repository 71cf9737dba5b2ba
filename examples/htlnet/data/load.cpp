// SPDX-License-Identifier: Apache-2.0
#include "load.hpp"

#include "csv_dataset.hpp"
#include "kuairand.hpp"
#include "online_retail.hpp"
#include "synthetic_dataset.hpp"

#include <htl/task/built_in_transforms.hpp>

#include <array>
#include <optional>

namespace htlnet {
namespace {

/// Gives the core regressions' labels a transform.
std::vector<htl::TaskSpec> with_core_label(const std::vector<htl::TaskSpec>& tasks, const std::string& transform) {
  std::vector<htl::TaskSpec> specs;
  for (const htl::TaskSpec& task : tasks)
    specs.push_back(task.is_core() && task.kind() == htl::TaskKind::regression ? task.transform(htl::label_transform(transform)) : task);
  return specs;
}

/// The schema's file under what the command line gives, and over the program's defaults.
CsvSchema schema_of(const Options& options) {
  HTL_CHECK(!options.data.schema.empty(), "htlnet: --dataset csv expects --schema, the TOML file that says what the columns are");
  CsvSchema schema = CsvSchema::read(options.data.schema);
  if (options.data.min_count || !schema.names_min_count)
    for (htl::FieldPlan& field : schema.fields) field.min_count = options.data.min_count.value_or(default_min_count);
  const std::vector<htl::TaskSpec> changed = with_core_label(schema.tasks, options.model.core_label.value_or(default_core_label));
  for (size_t t = 0; t < changed.size(); ++t)
    if (options.model.core_label || !schema.names_transform[t]) schema.tasks[t] = changed[t];
  if (options.all_rows || options.command == "predict") {
    schema.split_column.clear();
    schema.split = {};
    schema.fractions = {0.0, 0.0, 1.0};
  }
  return schema;
}

/// The cut-offs of training, validation and test rows: what was given, else the defaults.
std::array<std::string, 3> cut_offs_of(const DataOptions& data) {
  std::array<std::string, 3> dates = {data.train_dates, data.valid_dates, data.test_dates};
  for (size_t s = 0; s < 3; ++s)
    if (dates[s].empty()) dates[s] = default_cut_offs[s];
  return dates;
}

}  // namespace

SyntheticOptions synthetic_of(const Options& options) {
  return {.scenario = scenario_of(options.data.scenario), .rows = options.data.rows, .seed = options.train.seed};
}

Dataset load(const Options& options, const htl::FeatureMap* features, const htl::FeatureMap* statistics) {
  const DataOptions& data = options.data;
  if (data.dataset == "synthetic") {
    Dataset rows = synthetic_dataset(synthetic_of(options), data.min_count.value_or(default_min_count), statistics);
    if (options.model.core_label) rows.tasks = htl::TaskSet(with_core_label({rows.tasks.begin(), rows.tasks.end()}, *options.model.core_label));
    return rows;
  }
  HTL_CHECK(!data.directory.empty(), "htlnet: --dataset ", data.dataset, " expects --data, the folder with its files");
  if (data.dataset == "kuairand") {
    HTL_CHECK(features || (!data.train_dates.empty() && !data.valid_dates.empty()), "htlnet: --dataset kuairand expects --train-dates and --valid-dates");
    HTL_CHECK(!data.test_dates.empty(), "htlnet: --dataset kuairand expects --test-dates");
    kuairand_days(data.train_dates, data.valid_dates, data.test_dates);  // a finished run is not tested on days that it has learned from
    return load_kuairand(data.directory, features ? "" : data.train_dates, features ? "" : data.valid_dates, data.test_dates,
                         {.min_count = data.min_count.value_or(default_min_count),
                          .core_transform = options.model.core_label.value_or(default_core_label),
                          .history = data.history,
                          .target_rows = target_rows(data.target_statistics),
                          .target_strength = data.target_strength,
                          .numbers = numbers_as(data.numbers_as.value_or(default_numbers_as(data.dataset))),
                          .features = features,
                          .statistics = statistics});
  }
  if (data.dataset == "online_retail") {
    const std::array<std::string, 3> dates = cut_offs_of(data);
    online_retail_cut_offs(dates[0], dates[1], dates[2], data.horizon);  // a finished run is not tested where it has learned from what comes after
    return load_online_retail(data.directory, features ? "" : dates[0], features ? "" : dates[1], dates[2],
                              {.horizon_days = data.horizon,
                               .min_count = data.min_count.value_or(default_min_count),
                               .numbers = numbers_as(data.numbers_as.value_or(default_numbers_as(data.dataset))),
                               .core_transform = options.model.core_label,
                               .features = features,
                               .statistics = statistics,
                               .labels = options.command != "predict"});
  }
  const CsvSchema schema = schema_of(options);
  HTL_CHECK(!features || schema.asks_for(2), "htlnet: expected test rows, and [split] of \"", schema.path, "\" has none; --all-rows tests every row of --data");
  return load_csv(data.directory, schema, {.features = features, .statistics = statistics, .labels = options.command != "predict"});
}

std::string loading(const DataOptions& data) {
  return data.dataset == "synthetic" ? "simulating " + std::to_string(data.rows) + " rows …" : "reading \"" + data.directory + "\" …";
}

void warn_of_days(const DataOptions& data, Progress& progress) {
  const std::array<std::string, 3> texts = {data.train_dates, data.valid_dates, data.test_dates};
  const std::array<std::optional<DateRange>, 3> days = kuairand_days(texts[0], texts[1], texts[2]);
  for (size_t late = 1; late < 3; ++late)
    for (size_t early = 0; early < late; ++early)
      if (days[early] && days[late] && days[early]->first > days[late]->last)
        progress.warning("the " + std::string(kuairand::split_names[early]) + " days " + texts[early] + " come after the " +
                         std::string(kuairand::split_names[late]) + " days " + texts[late] +
                         ": the model knows what the future brings, and its metrics flatter it");
}

}  // namespace htlnet
